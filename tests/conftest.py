"""What the tests share: a way to run the program, and small datasets and runs to run it on."""

from __future__ import annotations

import atexit
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

# Tests run beside each other on few cores: a network's threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SWINCLF_CACHE_DIR"] = tempfile.mkdtemp(prefix="swinclf-tests-")
os.environ.pop("CI", None)

import browser
import numpy as np
import pytest
from command_lines import parse, suggested_calls
from filelock import FileLock
from PIL import Image
from safetensors import safe_open
from warm_processes import PLOTS, draw_pixel

from swinclf.metrics import Metrics, compute_metrics, image_scores

os.fsync = os.fstat  # nothing here outlives a power failure; a wrong handle is still an error
atexit.register(shutil.rmtree, os.environ["SWINCLF_CACHE_DIR"], ignore_errors=True)

pytest_plugins = ["exported_models"]
SMALL_MODEL = "test_vit"  # timm's own small network for tests: 0.4 M parameters
COLOURS = {"blue": (40, 60, 200), "green": (40, 170, 60), "red": (200, 50, 40)}


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said: `err` without line breaks inside a message."""

    code: int
    out: str
    err: str
    raw_err: str = field(default="", compare=False)


def unwrapped(text: str) -> str:
    """What was printed in lines of at most 80 columns, in one line for each message."""
    return re.sub(r"\n {4}(?=\S)", " ", text)


def write_image(
    path: Path, colour: Sequence[int], seed: int, size: tuple[int, int] = (48, 40)
) -> None:
    """A noisy picture of one colour: easy to learn, and no two alike."""
    noise = np.random.default_rng(seed).normal(0, 30, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.asarray(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


def write_dataset(
    root: Path, *, per_class: int = 12, colours: Mapping[str, Sequence[int]] = COLOURS
) -> Path:
    """A folder of class folders, one for each colour."""
    for row, (name, colour) in enumerate(colours.items()):
        for number in range(per_class):
            write_image(root / name / f"{number:03d}.png", colour, seed=1000 * row + number)
    return root


def train_poorly(data: Path, *, epochs: int) -> Path:
    """The run folder of a head on a frozen network of random weights, beside the dataset."""
    import swinclf

    done = swinclf.train(
        data,
        model=SMALL_MODEL,
        pretrained=False,
        freeze_layers=True,
        img_size=32,
        epochs=epochs,
        val_split=0.4,
        precision="fp32",
        out=str(data.parent / "runs"),
    )
    return done.folder.path


def stored_confidence(run: Path) -> dict[str, Any]:
    """What a run's weights say of when to believe them."""
    with safe_open(run / "model.safetensors", framework="np") as file:
        found: dict[str, Any] = json.loads(file.metadata()["calibration"])
    return found


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own for every test, not there yet."""
    folder = tmp_path_factory.getbasetemp() / "caches" / uuid.uuid4().hex
    monkeypatch.setenv("SWINCLF_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_end_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program, run in this process, does not change what a later test's second signal does."""
    from swinclf.device import StopFlag

    monkeypatch.setattr(StopFlag, "ENDS_PROCESS", False)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three classes of twelve pictures."""
    return write_dataset(tmp_path / "colours")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs the program's entry point here, in a folder of its own: `cli("train", folder, ...)`."""

    def run(*words: object, stdin: bytes = b"") -> Outcome:
        from swinclf.cli.app import main

        out, err = (
            io.TextIOWrapper(io.BytesIO(), "utf-8", newline="", write_through=True)
            for _ in range(2)
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["swinclf", *map(str, words)])
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        with warnings.catch_warnings(), pytest.raises(SystemExit) as exit_:
            main()
        texts = [one.buffer.getvalue().decode("utf-8", "surrogateescape") for one in (out, err)]
        return Outcome(int(exit_.value.code or 0), texts[0], unwrapped(texts[1]), texts[1])

    return run


@pytest.fixture
def planned(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], str]]:
    """`planned(folder, ...)`: the settings of a training that is only planned, and what it says."""
    for name in ("measure_forward", "measure_training"):
        for module in ("commands.train", "pipeline.budget"):
            monkeypatch.setattr(f"swinclf.{module}.{name}", lambda *_: 0.001)

    def run(*words: object) -> tuple[dict[str, Any], str]:
        done = cli("train", *words, "--dry-run", "--json")
        assert done.code == 0, done.err
        return json.loads(done.out)["settings"], done.err

    return run


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs the installed program as a process of its own; warnings are errors there too."""

    def run(*words: object, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Outcome:
        executable = shutil.which("swinclf", path=str(Path(sys.executable).parent))
        assert executable, "swinclf is not installed beside this Python"
        done = subprocess.run(
            [executable, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
            input=stdin,
            capture_output=True,
            timeout=300,
            check=False,
        )
        out, err = (one.decode("utf-8", "surrogateescape") for one in (done.stdout, done.stderr))
        return Outcome(done.returncode, out, unwrapped(err), err)

    return run


@dataclass(frozen=True)
class TrainedRun:
    """A finished run and what it was trained on. Shared by many tests: to be read, not changed."""

    path: Path
    data: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A small network, trained on three colours until it knows them."""
    import swinclf

    root = tmp_path_factory.mktemp("trained")
    data = write_dataset(root / "colours")
    run = swinclf.train(
        data,
        model=SMALL_MODEL,
        pretrained=False,
        img_size=32,
        epochs=6,
        batch_size=8,
        lr=1e-3,
        augment="none",
        precision="fp32",
        out=str(root / "runs"),
    )
    return TrainedRun(run.folder.path, data)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    """A browser without a network, with whatever page was open before."""
    if browser.EXECUTABLE is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    with browser.Browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of these tests share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def make_once(path: Path, make: Callable[[Path], object]) -> Path:
    """A file in the shared folder, made by the first process that asks for it."""
    with FileLock(f"{path}.lock"):
        if not path.exists():
            make(path)
    return path


@pytest.fixture(scope="session")
def exported_network(trained: TrainedRun, shared_folder: Path) -> bytes:
    """The trained network as ONNX: exporting one takes seconds, so it is done once."""
    import swinclf

    path = make_once(shared_folder / "trained.onnx", swinclf.load(trained.path).export)
    return path.read_bytes()


@pytest.fixture(scope="session")
def known_graph(exported_network: bytes) -> Callable[[], AbstractContextManager[object]]:
    """Inside `with known_graph():` exports take the network exported before; all else is done."""
    import onnx

    def patched() -> AbstractContextManager[object]:
        return mock.patch(
            "swinclf.exporting.writers._network_graph",
            side_effect=lambda _source: onnx.load_model_from_string(exported_network),
        )

    return patched


@pytest.fixture
def network_graph(known_graph: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """The same for a whole test."""
    with known_graph():
        yield


def metrics_from(
    classes: Sequence[str], probs: np.ndarray, targets: Sequence[int], split: str = "val"
) -> Metrics:
    """The metrics of (N, K) probabilities and N indices of classes."""
    scores = [image_scores(row, target) for row, target in zip(probs, targets, strict=True)]
    return compute_metrics(classes, scores, split)


def error_lines(outcome: Outcome) -> tuple[str, str, str]:
    """The three lines of an error, without the words before the colons.

    The commands that the last one suggests are parsed: none of them may be refused.
    """
    lines = outcome.err.strip().splitlines()[-3:]
    words = ("error: expected ", "found: ", "try: ")
    assert len(lines) == 3, outcome.err
    assert all(line.startswith(word) for line, word in zip(lines, words, strict=True)), outcome.err
    first, second, third = (
        line.removeprefix(word) for line, word in zip(lines, words, strict=True)
    )
    for call in suggested_calls(third):
        parse(call)
    return first, second, third


# Options of a training that takes half a second and gives the same bits every time.
SMALL_SETTINGS = {
    "model": SMALL_MODEL,
    "pretrained": False,
    "img_size": 32,
    "epochs": 2,
    "batch_size": 8,
    "precision": "fp32",
}
SMALL_FLAGS = (
    *("--model", SMALL_MODEL, "--no-pretrained", "--img-size", "32"),
    *("--epochs", "2", "--batch-size", "8", "--precision", "fp32"),
)


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Trainings are asked to stop after so many steps."""
    from swinclf.device import StopFlag
    from swinclf.errors import ExitCode
    from swinclf.training import loop

    flag, taken, step = StopFlag(), [], loop._train_step

    def counting(*arguments: Any) -> None:
        step(*arguments)
        taken.append(1)
        if len(taken) == steps:
            flag.exit_code = ExitCode.INTERRUPTED

    patch.setattr("swinclf.commands.train.StopFlag", lambda: flag)
    patch.setattr(loop, "_train_step", counting)


def resume_run(run: Path) -> Path:
    """Goes on with an interrupted run."""
    from swinclf.commands.train import train
    from swinclf.pipeline.resume import resume_settings
    from swinclf.run_folder import RunFolder

    return train(resume_settings(RunFolder(run)), resume=RunFolder(run)).folder.path


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, read by the standard library and not by the program."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def untimed_history(run: Path) -> list[dict[str, str]]:
    """The epochs of a run, without what a clock says of them."""
    timed = ("seconds", "images_per_second")
    return [
        {key: value for key, value in row.items() if key not in timed}
        for row in read_rows(run / "history.csv")
    ]


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """The tensors in a run's model.safetensors, read by safetensors and not by the program."""
    from safetensors.numpy import load_file

    return load_file(run / "model.safetensors")


def same_weights(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether two networks are equal bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].tobytes() == other[name].tobytes() for name in one
    )


@pytest.fixture(scope="session")
def tiny_swin() -> str:
    """The name of a Swin of four blocks, which timm is made to know: it has no small one itself."""
    from timm.models import generate_default_cfgs, is_model, register_model, swin_transformer

    def test_swin(pretrained: bool = False, **options: object) -> object:
        shape = {"embed_dim": 16, "depths": (1, 2, 1), "num_heads": (1, 2, 4), "window_size": 4}
        build = swin_transformer.swin_tiny_patch4_window7_224
        return build(pretrained, **{"img_size": 32, **shape, **options})

    test_swin.__module__ = swin_transformer.__name__
    published = {"test_swin": swin_transformer._cfg(input_size=(3, 32, 32))}
    swin_transformer.default_cfgs.update(generate_default_cfgs(published))
    if not is_model("test_swin"):
        register_model(test_swin)
    return "test_swin"


@pytest.fixture(scope="session", autouse=True)
def no_plots() -> Iterator[None]:
    """Runs without their curves and matrices."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PLOTS:
            patch.setattr(f"swinclf.inference.results.{name}", draw_pixel)
        yield


@pytest.fixture
def plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves and matrices, after all."""
    from swinclf.reporting import charts

    for name in PLOTS:
        monkeypatch.setattr(f"swinclf.inference.results.{name}", getattr(charts, name))
