"""Cache of decoded images in memory, of bounded size, for the epochs after the first.

Cached and uncached images are computed in the same way: the size of the cache changes only the
speed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from threading import Lock

import numpy as np

from swinclf.data.loader import LoadedImage
from swinclf.device import free_memory

FREE_PART = 4  # the cache takes 1/FREE_PART of the free memory when training starts


class ImageCache:
    """Decoded pixels by key, up to `limit_bytes`; none is evicted, as epochs are cyclic."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._pixels: dict[Hashable, np.ndarray] = {}
        self._lock = Lock()

    def load(
        self,
        key: Hashable,
        load: Callable[[], LoadedImage],
        vary: Callable[[np.ndarray], np.ndarray],
    ) -> LoadedImage:
        """Return an augmented image; thread-safe.

        `key` identifies the image and how it is loaded, `load` reads and decodes the file on a
        cache miss, `vary` augments cached pixels without changing them.
        """
        loaded = LoadedImage(self._pixels.get(key), b"", "")
        if loaded.pixels is None:
            loaded = load()
            if loaded.pixels is None:
                return loaded
            self._store(key, loaded.pixels)
        return replace(loaded, pixels=vary(loaded.pixels))

    def _store(self, key: Hashable, pixels: np.ndarray) -> None:
        with self._lock:
            if key not in self._pixels and self.bytes + pixels.nbytes <= self.limit_bytes:
                self._pixels[key] = pixels
                self.bytes += pixels.nbytes


def image_cache_bytes() -> int:
    """Return the size limit of the cache: a fraction of the memory that is free now."""
    return free_memory() // FREE_PART
