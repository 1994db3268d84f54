"""Feature extraction: reads every image once and computes its features by a frozen network.

Features cached by earlier trainings are used again (`feature_cache`): a file whose content is in
the cache is read, but not decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from swinclf.data.folder import ImageFile
from swinclf.data.loader import LoadedImage, load_for_prediction, map_ahead, not_loaded
from swinclf.data.transforms import to_torch_input
from swinclf.device import Hardware, StopFlag, fixed_batch_size
from swinclf.models.compute import Computer
from swinclf.out_of_memory import DividedBatches
from swinclf.parallel_batches import choose_parallel_batches, divide_threads
from swinclf.preprocess import Preprocess
from swinclf.processes import Processes
from swinclf.reporter import Reporter
from swinclf.training.feature_cache import FeatureCache

PLAIN, MIRROR = b"p", b"m"  # views of an image: itself and its mirror image
READ = b"r"  # no view: records only that the image can be decoded
_FIRST_ROWS = 4096  # of a table
_LARGEST_HALF = torch.finfo(torch.float16).max

Value = TypeVar("Value")
ViewsOf = Callable[[str, bytes], Sequence[bytes]]  # (file, content digest) -> views


class FeatureTable:
    """Features in memory by unit, an image's content digest and a view.

    They are the rows of one array, of `dtype`: 200,000 images of 1,280 numbers in two views take
    1 GB in float16.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._row_of: dict[bytes, int] = {}
        self._array = torch.empty(0, 0, dtype=dtype)  # perhaps with spare rows

    def __getstate__(self) -> dict[str, object]:
        """Return the content to pickle, without spare rows."""
        return {"_row_of": self._row_of, "_array": self.whole.clone()}

    def __contains__(self, unit: bytes) -> bool:
        """Return whether the table has a unit's features."""
        return unit in self._row_of

    @property
    def whole(self) -> torch.Tensor:
        """Return the (N, D) features of all units, in the order in which they were added."""
        return self._array[: len(self._row_of)]

    def units(self) -> Collection[bytes]:
        """Return the units that the table has."""
        return self._row_of.keys()

    def add(self, units: Sequence[bytes], features: torch.Tensor) -> None:
        """Add (N, D) features of N units that the table does not have yet."""
        start, end = len(self._row_of), len(self._row_of) + len(units)
        if end > len(self._array):  # pages of memory are only used as they are filled
            larger = self._array.new_empty(max(_FIRST_ROWS, 2 * end), features.shape[1])
            if start:
                larger[:start] = self.whole
            self._array = larger
        if self._array.dtype is torch.float16:
            features = features.clamp(-_LARGEST_HALF, _LARGEST_HALF)
        self._array[start:end] = features
        self._row_of.update(zip(units, range(start, end), strict=True))

    def add_missing(self, other: FeatureTable) -> None:
        """Add the features of those units of another table that this one does not have."""
        if units := [unit for unit in other.units() if unit not in self]:
            self.add(units, other.gather(units))

    def rows(self, units: Sequence[bytes]) -> torch.Tensor:
        """Return the (N,) int64 rows of units in `whole`."""
        return torch.tensor([self._row_of[unit] for unit in units], dtype=torch.int64)

    def gather(self, units: Sequence[bytes]) -> torch.Tensor:
        """Return the (N, D) float32 features of units, in their order."""
        return self._array[self.rows(units)].float()


@dataclass(frozen=True)
class ExtractedFeatures:
    """Content digests, read errors and features of files, collected during extraction."""

    # content digest of each readable file, by path
    digests: dict[str, bytes] = field(default_factory=dict)
    # read error of each unreadable file, by path
    errors: dict[str, str] = field(default_factory=dict)
    features: FeatureTable | None = None  # by a frozen network; None without one

    def plain_features(self, images: Sequence[ImageFile]) -> torch.Tensor:
        """Return the (N, D) float32 features of unmirrored images."""
        assert self.features is not None
        return self.features.gather([self.digests[image.path] + PLAIN for image in images])


@dataclass(frozen=True)
class FeatureCaches:
    """The on-disk caches of one configuration."""

    features: FeatureCache | None = None  # features by the same network; None for no cache
    readable: FeatureCache | None = None  # contents known to be decodable; None for no cache


class _LoadedFile(NamedTuple):
    """A file, its loaded content, and its cached features."""

    file: str
    loaded: LoadedImage
    cached: Mapping[bytes, torch.Tensor]


class _PendingView(NamedTuple):
    """A view of an image whose features are still to be computed."""

    unit: bytes
    pixels: np.ndarray


def _not_loaded(file: str, why: str) -> _LoadedFile:
    return _LoadedFile(*not_loaded(file, why), {})


class FeatureExtractor:
    """Feature extraction from image files, with on-disk caches.

    Paths are relative to `root`. Without `computer`, the frozen network, files are only read.
    `stop` is checked after every image; features computed so far are still cached. `caches` is
    closed with this. `dtype` is that of the features in memory.
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
        caches: FeatureCaches,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._root, self._preprocess, self.computer = root, preprocess, computer
        self._hardware, self._workers, self._report, self._stop = hardware, workers, report, stop
        self._caches, self._batch = caches, fixed_batch_size(hardware.device)
        self._divided = DividedBatches(hardware.device)
        self._table = FeatureTable(dtype)
        self._requested: set[bytes] = set()  # units that are in the table or being computed
        self.extracted = ExtractedFeatures(features=self._table if computer else None)

    def close(self) -> None:
        """Write the caches, also after an interruption."""
        for cache in (self._caches.features, self._caches.readable):
            if cache is not None:
                cache.close()

    def extract(self, files: Sequence[str], views_of: ViewsOf, task: str = "") -> None:
        """Read every file once, decode images that are not cached, compute missing features.

        `views_of` returns the views to extract of an image; without any it is only read. `task` is
        the label of the progress bar.

        Raises:
            DeviceError: If memory runs out for a single image.
        """

        def load(file: str) -> _LoadedFile:
            cached: dict[bytes, torch.Tensor] = {}

            def is_known(digest: bytes) -> bool:
                units = [digest + view for view in self._views(file, digest, views_of)]
                cached.update(
                    {unit: one for unit in units if (one := self._cached(unit)) is not None}
                )
                return all(unit in cached or unit in self._requested for unit in units)

            loaded = load_for_prediction(self._root / file, self._preprocess, is_known=is_known)
            return _LoadedFile(file, loaded, cached)

        task = task or ("reading images" if self.computer is None else "computing features")
        with self._report.track(task, len(files)) as advance:
            loaded = map_ahead(
                load, files, workers=self._workers, ahead=2 * self._batch, late=_not_loaded
            )
            self._compute(self._pending_batches(loaded, views_of, advance))

    def extract_shared(self, files: Sequence[str], views_of: ViewsOf, processes: Processes) -> None:
        """Do as `extract` together with other processes, which call this with the same files.

        The first process gets the results of all.
        """
        self.extract(files[processes.rank :: processes.count], views_of)
        everything = self.extracted
        for other in processes.gather(everything if processes.rank else None):
            if other is None:
                continue
            everything.digests.update(other.digests)
            everything.errors.update(other.errors)
            if other.features is not None:
                self._table.add_missing(other.features)
        self._requested.update(self._table.units())
        _sort(everything.digests, files)
        _sort(everything.errors, files)

    def _pending_batches(
        self, files: Iterable[_LoadedFile], views_of: ViewsOf, advance: Callable[[int], None]
    ) -> Iterator[list[_PendingView]]:
        """Yield batches of views to compute; add cached features to the table."""
        pending: list[_PendingView] = []
        for file, loaded, cached in files:
            if not loaded.digest:
                self.extracted.errors[file] = loaded.error
            else:
                self.extracted.digests[file] = loaded.digest
                pending += self._pending_views(
                    loaded, cached, self._views(file, loaded.digest, views_of)
                )
            advance(1)
            if self._stop:
                return
            while len(pending) >= self._batch:
                yield pending[: self._batch]
                del pending[: self._batch]
        while pending:
            yield pending[: self._batch]
            del pending[: self._batch]

    def _views(self, file: str, digest: bytes, views_of: ViewsOf) -> Sequence[bytes]:
        return (self.computer is not None and views_of(file, digest)) or (READ,)

    def _cached(self, unit: bytes) -> torch.Tensor | None:
        cache = self._caches.readable if unit.endswith(READ) else self._caches.features
        return cache.get(unit) if cache is not None else None

    def _pending_views(
        self, loaded: LoadedImage, cached: Mapping[bytes, torch.Tensor], views: Sequence[bytes]
    ) -> Iterator[_PendingView]:
        """Yield the views of an image to compute; add its cached features to the table."""
        for unit, feature in cached.items():
            if not unit.endswith(READ) and unit not in self._requested:
                self._requested.add(unit)
                self._table.add([unit], feature[None])
        if loaded.pixels is None:
            return
        for view in views:
            unit = loaded.digest + view
            if view == READ:
                if self._caches.readable is not None:
                    self._caches.readable.put([unit], torch.empty(1, 0))
            elif unit not in self._requested:
                self._requested.add(unit)
                yield _PendingView(
                    unit, loaded.pixels[:, ::-1] if view == MIRROR else loaded.pixels
                )

    def _compute(self, batches: Iterator[list[_PendingView]]) -> None:
        """Compute features, several batches in parallel, and store them in order."""

        def compute(batch: list[_PendingView]) -> tuple[list[bytes], torch.Tensor]:
            return [one.unit for one in batch], self._features([one.pixels for one in batch])

        lanes = choose_parallel_batches(
            self._hardware.device, self._preprocess.height * self._preprocess.width
        )
        with divide_threads(lanes):
            for units, features in map_ahead(
                compute, batches, workers=lanes.count, ahead=lanes.count + 1
            ):
                self._table.add(units, features)
                # a batch of another size is rounded otherwise
                is_whole = self._divided.most_images >= self._batch
                if self._caches.features is not None and is_whole:
                    self._caches.features.put(units, features)

    def _features(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """Compute the features of one batch.

        A short last batch is padded: rounding depends on the batch size, and an image's features
        must not depend on the other files.
        """
        padded = np.stack([*pixels, *[pixels[-1]] * (self._batch - len(pixels))])
        return torch.cat(self._divided.compute(self._part, padded))[: len(pixels)]

    def _part(self, pixels: np.ndarray) -> torch.Tensor:
        assert self.computer is not None
        inputs = to_torch_input(pixels, self._preprocess, self._hardware.device)
        return self.computer.features(inputs).cpu()


def _sort(values: dict[str, Value], files: Sequence[str]) -> None:
    """Put the values of files in the order of the files."""
    found = {file: values[file] for file in files if file in values}
    values.clear()
    values.update(found)
