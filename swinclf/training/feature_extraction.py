"""One look at every image: is it readable, what is in it, what does a frozen network see.

What earlier looks have found out is not found out again (`feature_cache`): a file whose content is
known is read, and not even decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from swinclf.data.folder import TEST, VAL, FolderIndex, ImageFile
from swinclf.data.images import FORMATS, REVISION
from swinclf.data.loader import LoadedImage, load_for_prediction, map_ahead, not_loaded
from swinclf.data.split import split_position
from swinclf.data.transforms import to_torch_input
from swinclf.device import Hardware, StopFlag, cpu_features, fixed_batch_size, versions
from swinclf.models.compute import REVISION as COMPUTE_REVISION
from swinclf.models.compute import Computer
from swinclf.parallel_batches import choose_parallel_batches, divide_threads
from swinclf.preprocess import Preprocess
from swinclf.reporter import Reporter
from swinclf.training.feature_cache import FeatureCache, cache_folder, key_of, weights_digest

PLAIN, MIRROR = b"p", b"m"  # views of an image: itself and its mirror image
READ = b"r"  # no view: that the image could be decoded is all there is to know
_BLOCK = 4096

ViewsOf = Callable[[str, bytes], Sequence[bytes]]  # (file, content digest) -> views


class FeatureTable:
    """Features in memory by unit, an image's content digest and a view."""

    def __init__(self) -> None:
        self._row_of: dict[bytes, int] = {}
        self._blocks: list[torch.Tensor] = []
        self._loose: list[torch.Tensor] = []
        self._loose_rows = 0

    def __contains__(self, unit: bytes) -> bool:
        """Whether a unit's features are here."""
        return unit in self._row_of

    def add(self, units: Sequence[bytes], features: torch.Tensor) -> None:
        """Takes (N, D) features of N units that are not here yet."""
        for unit in units:
            self._row_of[unit] = len(self._row_of)
        self._loose.append(features)
        self._loose_rows += len(features)
        if self._loose_rows >= _BLOCK:
            self._tidy()

    def gather(self, units: Sequence[bytes]) -> torch.Tensor:
        """(N, D) float32 features of units, in their order."""
        self._tidy()
        rows = torch.tensor([self._row_of[unit] for unit in units], dtype=torch.int64)
        gathered = torch.empty(len(rows), self._blocks[0].shape[1] if self._blocks else 0)
        start = 0
        for block in self._blocks:
            inside = (rows >= start) & (rows < start + len(block))
            gathered[inside] = block[rows[inside] - start]
            start += len(block)
        return gathered

    def _tidy(self) -> None:
        if self._loose:
            self._blocks.append(torch.cat(self._loose))
            self._loose, self._loose_rows = [], 0


@dataclass(frozen=True)
class Look:
    """What became of the files; grows while they are looked at.

    Attributes:
        digests: The digest of each readable file's content, by path.
        errors: Why a file could not be read, by path, for those that could not.
        features: What a frozen network sees in them; None without a network.
    """

    digests: dict[str, bytes] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    features: FeatureTable | None = None

    def plain_features(self, images: Sequence[ImageFile]) -> torch.Tensor:
        """(N, D) float32: what the network sees in images, each as it is and not mirrored."""
        assert self.features is not None
        return self.features.gather([self.digests[image.path] + PLAIN for image in images])


@dataclass(frozen=True)
class Known:
    """What earlier looks have found out, as far as it may be used again.

    Attributes:
        features: By the same network; None for nothing.
        readable: Which contents can be decoded; None for nothing.
    """

    features: FeatureCache | None = None
    readable: FeatureCache | None = None


class _Found(NamedTuple):
    """A file, what was loaded of it, and what is known of it from earlier looks."""

    file: str
    loaded: LoadedImage
    known: Mapping[bytes, torch.Tensor]


class _Waiting(NamedTuple):
    """A view of an image whose features are to be computed."""

    unit: bytes
    pixels: np.ndarray


def _not_loaded(file: str, why: str) -> _Found:
    return _Found(*not_loaded(file, why), {})


class Looker:
    """Looks at images.

    Args:
        root: What the files' paths are relative to.
        preprocess: How a picture becomes the network's input.
        computer: The frozen network; None only reads.
        hardware: Where it runs.
        workers: Threads that read.
        report: Told of progress.
        stop: Looked at after every image; what is known so far is then kept.
        known: What earlier looks have found out; closed with this.
        table: Where features go; None for one of its own, in float32.
    """

    def __init__(
        self,
        root: Path,
        preprocess: Preprocess,
        computer: Computer | None,
        hardware: Hardware,
        *,
        workers: int,
        report: Reporter,
        stop: StopFlag,
        known: Known,
        table: FeatureTable | None = None,
    ) -> None:
        self._root, self._preprocess, self._computer = root, preprocess, computer
        self._hardware, self._workers, self._report, self._stop = hardware, workers, report, stop
        self._known, self._batch = known, fixed_batch_size(hardware.device)
        self._table = FeatureTable() if table is None else table
        self._asked: set[bytes] = set()  # units whose features are in the table or on their way
        self.seen = Look(features=self._table if computer else None)

    def close(self) -> None:
        """Keeps what was found out, also where the look was cut short."""
        for cache in (self._known.features, self._known.readable):
            if cache is not None:
                cache.close()

    def look(self, files: Sequence[str], views_of: ViewsOf, task: str = "") -> None:
        """Reads every file once, decodes what is not known, computes what is missing.

        Args:
            files: The images.
            views_of: The views that are wanted of an image; none only reads.
            task: What this is called while it goes on.
        """

        def load(file: str) -> _Found:
            known: dict[bytes, torch.Tensor] = {}

            def is_known(digest: bytes) -> bool:
                units = [digest + view for view in self._views(file, digest, views_of)]
                known.update(
                    {unit: one for unit in units if (one := self._recall(unit)) is not None}
                )
                return all(unit in known or unit in self._asked for unit in units)

            loaded = load_for_prediction(self._root / file, self._preprocess, is_known=is_known)
            return _Found(file, loaded, known)

        task = task or ("reading images" if self._computer is None else "computing features")
        with self._report.track(task, len(files)) as advance:
            found = map_ahead(
                load, files, workers=self._workers, ahead=2 * self._batch, late=_not_loaded
            )
            self._compute(self._waiting_batches(found, views_of, advance))

    def _waiting_batches(
        self, found: Iterable[_Found], views_of: ViewsOf, advance: Callable[[int], None]
    ) -> Iterator[list[_Waiting]]:
        """Goes through what was loaded, and gives what is to be computed batch by batch."""
        waiting: list[_Waiting] = []
        for file, loaded, known in found:
            if not loaded.digest:
                self.seen.errors[file] = loaded.error
            else:
                self.seen.digests[file] = loaded.digest
                waiting += self._take(loaded, known, self._views(file, loaded.digest, views_of))
            advance(1)
            if self._stop:
                return
            while len(waiting) >= self._batch:
                yield waiting[: self._batch]
                del waiting[: self._batch]
        while waiting:
            yield waiting[: self._batch]
            del waiting[: self._batch]

    def _views(self, file: str, digest: bytes, views_of: ViewsOf) -> Sequence[bytes]:
        return (self._computer is not None and views_of(file, digest)) or (READ,)

    def _recall(self, unit: bytes) -> torch.Tensor | None:
        cache = self._known.readable if unit.endswith(READ) else self._known.features
        return cache.get(unit) if cache is not None else None

    def _take(
        self, loaded: LoadedImage, known: Mapping[bytes, torch.Tensor], views: Sequence[bytes]
    ) -> Iterator[_Waiting]:
        """Keeps what is known of an image; gives what is to be computed of it."""
        for unit, feature in known.items():
            if not unit.endswith(READ) and unit not in self._asked:
                self._asked.add(unit)
                self._table.add([unit], feature[None])
        if loaded.pixels is None:
            return
        for view in views:
            unit = loaded.digest + view
            if view == READ:
                if self._known.readable is not None:
                    self._known.readable.put([unit], torch.empty(1, 0))
            elif unit not in self._asked:
                self._asked.add(unit)
                yield _Waiting(unit, loaded.pixels[:, ::-1] if view == MIRROR else loaded.pixels)

    def _compute(self, batches: Iterator[list[_Waiting]]) -> None:
        """Computes features, some batches side by side, and keeps them in order."""

        def compute(batch: list[_Waiting]) -> tuple[list[bytes], torch.Tensor]:
            return [one.unit for one in batch], self._features([one.pixels for one in batch])

        lanes = choose_parallel_batches(
            self._hardware.device, self._preprocess.height * self._preprocess.width
        )
        with divide_threads(lanes):
            for units, features in map_ahead(
                compute, batches, workers=lanes.count, ahead=lanes.count + 1
            ):
                self._table.add(units, features)
                if self._known.features is not None:
                    self._known.features.put(units, features)

    def _features(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Computes the features of one batch.

        A last, short batch is filled up: in a batch of another size a network rounds otherwise, and
        what an image gives must not depend on the others that are looked at.
        """
        assert self._computer is not None
        filled = np.stack([*pixels, *[pixels[-1]] * (self._batch - len(pixels))])
        inputs = to_torch_input(filled, self._preprocess, self._hardware.device)
        return self._computer.features(inputs)[: len(pixels)].cpu()


def open_known(
    network: nn.Module | None,
    described: str,
    preprocess: Preprocess,
    hardware: Hardware,
    *,
    limit_bytes: int,
    say: Callable[[str], None],
    dtype: torch.dtype = torch.float32,
) -> Known:
    """Opens the user's cache at what agrees with this training in all that decides a feature.

    Args:
        network: The frozen network; None to read only.
        described: What tells the network from others of the same weights, such as its name; who
            built it is added.
        preprocess: How a picture becomes its input.
        hardware: Device and precision.
        limit_bytes: What the whole cache may take.
        say: Told, once, why nothing can be kept.
        dtype: In which features are kept.
    """
    folder = cache_folder()
    if folder is None:
        return Known()
    installed = versions()
    decoder = {
        "decode_px": preprocess.decode_px,
        "decoder": REVISION,
        "formats": FORMATS,
        **{name: installed[name] for name in ("swinclf", "pillow")},
    }

    def open_one(facts: Mapping[str, object]) -> FeatureCache:
        return FeatureCache(folder, key_of(facts), limit_bytes=limit_bytes, say=say, dtype=dtype)

    readable = open_one(decoder)
    if network is None:
        return Known(None, readable)
    facts = {
        **decoder,
        "weights": weights_digest(network),
        "network": [described, type(network).__module__, COMPUTE_REVISION],
        "preprocess": preprocess.to_dict(),
        "precision": hardware.precision,
        "machine": _machine(hardware.device),
        "batch": fixed_batch_size(hardware.device),
        **{name: installed[name] for name in ("torch", "timm", "numpy")},
        **({} if dtype is torch.float32 else {"dtype": str(dtype)}),
    }
    return Known(open_one(facts), readable)


def _machine(device: str) -> list[object]:
    """What roundings depend on besides precision and software."""
    if device.startswith("cuda"):
        return ["cuda", torch.cuda.get_device_name(device)]
    abilities = sorted(name for name, has in cpu_features().items() if has is True)
    return [device, torch.get_num_threads(), *abilities]


def views_by_split(index: FolderIndex, *, mirror: bool, val_split: float, seed: int) -> ViewsOf:
    """The views that will be wanted, as far as can be told before all images have been read.

    Held-out images are seen as they are, training images in the mirror too. Whether an image is
    held out hangs on its content, but for the few that `hold_out` moves (`views_missing`).

    Args:
        index: The dataset as it lies on disk.
        mirror: Whether mirror images are wanted at all.
        val_split: Part of each class that is held out where the folders do not say.
        seed: Of the holding out.
    """
    split_of = {image.path: image.split for image in index.images}

    def views_of(file: str, digest: bytes) -> Sequence[bytes]:
        split = split_of[file]
        if split == TEST:  # nothing is ever chosen by a test folder's images
            return ()
        held_out = split == VAL
        if not index.has_val:
            held_out = split_position(digest, seed) < val_split
        return (PLAIN, MIRROR) if mirror and not held_out else (PLAIN,)

    return views_of


def views_missing(look: Look, files: Sequence[str]) -> list[str]:
    """The training images whose mirror image nobody has looked at yet.

    Args:
        look: Of all images.
        files: The training images.
    """
    table = look.features
    if table is None:
        return []
    return [file for file in files if look.digests[file] + MIRROR not in table]
