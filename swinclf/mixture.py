"""Kinds of places that pictures have: a mixture of Gaussians, as it is kept with a model.

Letters: C numbers of a place, R of these kept, G Gaussians.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from swinclf.feature_space import SINGLE, Floats, packed, unpacked


class Mixture(NamedTuple):
    """Gaussians over places, and how places are reduced before they meet them.

    Attributes:
        axes: (C, R) main directions, scaled to a unit deviation.
        offset: (R,) added after them.
        weight: (G,) of the Gaussians.
        mean: (G, R).
        variance: (G, R).
    """

    axes: Floats
    offset: Floats
    weight: Floats
    mean: Floats
    variance: Floats

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: packed(one, SINGLE) for name, one in self._asdict().items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        mixture = cls(*(unpacked(values[name]) for name in cls._fields))
        (width, kept), gaussians = mixture.axes.shape, len(mixture.weight)
        shapes = tuple(one.shape for one in mixture)
        if shapes != ((width, kept), (kept,), (gaussians,), *[(gaussians, kept)] * 2):
            raise ValueError(f"arrays that fit each other. Received: {shapes}")
        return mixture
