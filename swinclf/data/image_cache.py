"""Decoded pictures kept in memory within a bound, so that later epochs decode nothing again.

What is kept is what every epoch has in common, and it is made in the same way whether it is kept or
not: where memory ends changes how long an epoch takes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from threading import Lock

import numpy as np

from swinclf.data.loader import LoadedImage
from swinclf.device import free_memory

FREE_PART = 4  # one part in so many of the memory that is free when training starts


class KeptPictures:
    """Pixels by key, as many as fit; nothing is ever put out, since epochs come round in turns.

    Args:
        limit_bytes: Most memory that pixels may take.
    """

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
        """A picture as one epoch shows it; may be called from several threads.

        Args:
            key: Stands for the picture and for how it is loaded.
            load: Reads and decodes the file, if it has not been kept.
            vary: Kept pixels -> what is shown; leaves them as they are.
        """
        loaded = LoadedImage(self._pixels.get(key), b"", "")
        if loaded.pixels is None:
            loaded = load()
            if loaded.pixels is None:
                return loaded
            self._keep(key, loaded.pixels)
        return replace(loaded, pixels=vary(loaded.pixels))

    def _keep(self, key: Hashable, pixels: np.ndarray) -> None:
        with self._lock:
            if key not in self._pixels and self.bytes + pixels.nbytes <= self.limit_bytes:
                self._pixels[key] = pixels
                self.bytes += pixels.nbytes


def room_for_pictures() -> int:
    """Bytes that pictures may take: a part of the memory that is free now."""
    return free_memory() // FREE_PART
