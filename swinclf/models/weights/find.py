"""Resolution of --weights: a file, a folder, a run, or a name that is meant for --model."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from swinclf.card import FORMAT, ModelCard
from swinclf.errors import WeightsError
from swinclf.export_formats import MODEL_SUFFIXES
from swinclf.latest_run import follow_latest
from swinclf.models.names import registry
from swinclf.models.tensorfile import read_metadata
from swinclf.models.weights.file_kind import (
    WeightsFileKind,
    detect_readable_kind,
    is_weights_name,
)
from swinclf.run_folder import RunFolder
from swinclf.shell_quoting import quoted

# Names that other programs use for weights in a folder, in order of preference.
_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
# Files of a training that have the suffix of weights but are not.
_NO_WEIGHTS = re.compile(
    r"training_args\.bin|optimizer.*|scheduler.*|scaler.*|rng_state.*|random_states.*|"
    r"last\.ckpt|previous\.ckpt|neighbours\.safetensors|.*_optim_states\.pt"
)
_SHARD = re.compile(r".+-\d{5}-of-\d{5}\.[^.]+")
_EXPORTED = set(MODEL_SUFFIXES) - {".safetensors"}
_SHOWN = 4  # files that an error lists


@dataclass(frozen=True)
class StartingWeights:
    """Weights to start a training from."""

    path: Path  # the weights file, or the index of its shards
    card: ModelCard | None  # the model card, if the file is a run's


def find_weights(where: Path) -> StartingWeights:
    """Return the file that --weights refers to, without network access.

    `where` is a weights file, a run folder, a file in one, or a folder with weights of another
    program; also with timm's prefix `local-dir:`.

    Raises:
        WeightsError: If there is none, or it is of an unsupported kind.
    """
    where = follow_latest(Path(str(where).removeprefix("local-dir:")))
    path = _in_folder(where) if where.is_dir() else where
    if not path.is_file():
        raise _not_found(where)
    _refuse_checkpoint(path)
    if path.suffix.lower() in _EXPORTED:
        raise WeightsError(
            f"a weights file or a run at '{where}'",
            found="an exported file, which cannot be trained",
            hint="the run it was exported from",
        )
    if detect_readable_kind(path) is not WeightsFileKind.SAFETENSORS:
        return StartingWeights(path, None)
    try:
        metadata = read_metadata(path)
    except WeightsError as error:
        hint = "copy or download it again"
        raise WeightsError(error.expected, found=error.found, hint=hint) from error
    is_ours = metadata.get("format") == FORMAT
    card = ModelCard.from_metadata(metadata, where=str(path)) if is_ours else None
    return StartingWeights(path, card)


def _in_folder(folder: Path) -> Path:
    """Return the only, or the preferred, weights file of a folder."""
    folder = _snapshot(folder) or folder
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    _refuse_checkpoint(folder / "last.ckpt")
    _refuse_distributed(folder)
    files = _weights_in(folder)
    if len(files) == 1:
        return files[0]
    if files:
        likely = min(files, key=lambda path: ("best" not in path.name, "ema" not in path.name))
        raise WeightsError(
            f"one weights file in '{folder}'",
            found=f"{len(files)}: {_listed(files)}",
            hint=f"--weights {quoted(likely)}",
        )
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_file()]
    for path in inside:
        if path.suffix.lower() in (".h5", ".keras", ".msgpack", ".onnx", ".zip", ".tar", ".gz"):
            detect_readable_kind(path)
            return path
    below = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and _holds(entry)]
    hint = "the path of a weights file or of a run folder"
    if below:
        hint = f"--weights {quoted(below[0])}"
    found = (
        f"a folder without weights ({_listed(inside)})" if inside else "a folder without weights"
    )
    raise WeightsError(f"weights at '{folder}'", found=found, hint=hint)


def _snapshot(folder: Path) -> Path | None:
    """Return the snapshot in a repository's folder of the Hub's cache; None for other folders."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return None
    main = folder / "refs" / "main"
    if main.is_file():
        named = snapshots / main.read_text("utf-8").strip()
        if named.is_dir():
            return named
    return max(filter(Path.is_dir, snapshots.iterdir()), default=None)


def _weights_in(folder: Path) -> list[Path]:
    """Return the weights files of a folder by name, with only the first of several shards."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and is_weights_name(path.name) and not _NO_WEIGHTS.fullmatch(path.name)
    ]
    stems = {re.sub(r"-\d{5}-of-", "-of-", path.name): path for path in reversed(files)}
    return [path for path in files if not _SHARD.fullmatch(path.name) or path in stems.values()]


def _holds(entry: Path) -> bool:
    """Return whether an entry of a folder is named like weights, or is a folder with them."""
    try:
        if entry.is_dir():
            return any((entry / name).is_file() for name in _NAMES) or bool(_weights_in(entry))
        return is_weights_name(entry.name) and not _NO_WEIGHTS.fullmatch(entry.name)
    except OSError:
        return False


def _refuse_checkpoint(path: Path) -> None:
    run = RunFolder(path.parent)
    if path not in (run.checkpoint, run.previous_checkpoint) or not path.is_file():
        return
    if not run.config.is_file() or not run.split.is_file():
        return
    is_done = run.model.is_file()
    raise WeightsError(
        f"weights at '{run.path}'",
        found="the saved state of a training" if is_done else "a run that was not finished",
        hint=f"{'--weights' if is_done else 'swinclf train --resume'} {quoted(run.path)}",
    )


def _refuse_distributed(folder: Path) -> None:
    """Refuse distributed checkpoints, with the command that joins their parts."""
    parts = folder if any(folder.glob("*.distcp")) else None
    parts = parts or next((path.parent for path in sorted(folder.glob("*/*.distcp"))), None)
    if parts:
        raise WeightsError(
            f"weights in one file at '{folder}'",
            found="a distributed checkpoint (FSDP, torch.distributed.checkpoint)",
            hint="python -m torch.distributed.checkpoint.format_utils dcp_to_torch "
            f"{quoted(parts)} weights.pth, then --weights weights.pth",
        )
    whole = sorted([*folder.glob("mp_rank_*_states.pt"), *folder.glob("*/mp_rank_*_states.pt")])
    partial = any(folder.glob("**/zero_pp_rank_*_model_states.pt"))
    if whole and not partial:
        raise WeightsError(
            f"one weights file in '{folder}'",
            found="a checkpoint of DeepSpeed",
            hint=f"--weights {quoted(whole[-1])}",
        )
    if whole or partial or (folder / "zero_to_fp32.py").is_file():
        raise WeightsError(
            f"weights in one file at '{folder}'",
            found="a checkpoint of DeepSpeed, in parts (ZeRO)",
            hint=f"python {quoted(folder / 'zero_to_fp32.py')} {quoted(folder)} joined, "
            "then --weights joined",
        )


def _not_found(where: Path) -> WeightsError:
    """Return the error for a missing path, which may be a name meant for --model, or misspelt."""
    text = str(where).replace("\\", "/")
    if re.match(r"(https?|s3|gs|ftp|hf):/", text):
        name = text.rpartition("/")[2].partition("?")[0] or "FILE"
        return WeightsError(
            "a weights file or a folder on this machine",
            found=f"a web address, '{text.replace(':/', '://', 1)}'",
            hint=f"download it, then --weights {name}",
        )
    repository = re.sub(r"^hf[-_]hub:", "", text)
    name = repository.removeprefix("timm/")
    if name.partition(".")[0] in registry():
        return WeightsError(
            "a weights file, a folder with one, or a run",
            found=f"the name of published weights, '{text}'",
            hint=f"--model {name} without --weights",
        )
    if name != text:
        download = f"hf download {repository} --local-dir DIR"
        return WeightsError(
            "a weights file or a folder on this machine",
            found=f"the name of a repository on the Hub, '{text}'",
            hint=f"its files in a folder ({download}), then --weights DIR",
        )
    parent = where.absolute().parent
    near = difflib.get_close_matches(
        where.name,
        [entry.name for entry in parent.iterdir() if _holds(entry)] if parent.is_dir() else [],
        n=1,
    )
    return WeightsError(
        f"weights at '{where}'",
        found="no file" if where.exists() else "nothing of that name",
        hint=f"did you mean '{where.parent / near[0]}'?"
        if near
        else "the path of a weights file or of a run folder",
    )


def _listed(files: list[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(path.name for path in files[:_SHOWN]) + more
