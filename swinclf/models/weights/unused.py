"""Detection of tensors that a layout's conversion ignored, for the report."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from swinclf.models.weights.match import Match

_DEPTH = 3  # leading components of a name that are distinguished
_TRIES = 60  # conversions on the meta device


def unused_groups(
    match: Match, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, int]:
    """Return the groups of a file's tensors without which its conversion gives the same result.

    Their numbers by the common start of their names (the whole name for a single tensor); empty for
    timm's own names.
    """
    if match.layout is None:
        return {}
    part = {
        name.removeprefix(match.prefix): value.to("meta")
        for name, value in tensors.items()
        if name.startswith(match.prefix)
    }
    whole = _shapes(match, part, wanted)
    found: dict[str, int] = {}
    waiting, tries = [(name, 1) for name in _begins(part, "", 1)], 0
    while waiting and tries < _TRIES and whole is not None:
        begin, depth = waiting.pop(0)
        inside = [n for n in part if n == begin or n.startswith(begin + ".")]
        tries += 1
        if _shapes(match, {n: v for n, v in part.items() if n not in inside}, wanted) == whole:
            label = inside[0] if len(inside) == 1 else begin
            found[match.prefix + label] = len(inside)
        elif depth < _DEPTH and len(inside) > 1:
            waiting += [(name, depth + 1) for name in _begins(part, begin + ".", depth + 1)]
    return found


def _begins(part: Mapping[str, Tensor], prefix: str, depth: int) -> list[str]:
    """Return the distinct starts of the names under a prefix, in their order."""
    names = (name for name in part if name.startswith(prefix))
    return list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in names))


def _shapes(
    match: Match, part: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes that a conversion gives, or None if it fails."""
    assert match.layout is not None
    try:
        if not match.layout.recognises(part):
            return None
        state = match.layout.convert(part, wanted)
    except Exception:  # conversions raise anything where a part is missing
        return None
    return {name: tuple(value.shape) for name, value in state.items() if name in wanted}
