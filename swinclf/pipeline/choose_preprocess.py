"""The preprocessing of a training: as given, else as its weights were trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from swinclf.models.build import Architecture, default_preprocess
from swinclf.models.weights.known_preprocess import KnownPreprocess
from swinclf.preprocess import MEASURED, Preprocess, format_colours, parse_colours
from swinclf.settings import Settings

COLOURS = ("mean", "std")
NAMES = (*COLOURS, "interpolation", "crop_pct")
OWN = "the model's own"


def choose_preprocess(
    settings: Settings, architecture: Architecture, known: Sequence[KnownPreprocess]
) -> tuple[Settings, Preprocess]:
    """Choose the preprocessing; return it with the settings.

    Of the known preprocessing of the weights, most reliable first, open fields are filled from the
    next, and finally from the network's default.
    """
    config = settings.config
    own = default_preprocess(architecture, img_size=config.img_size, fit=config.fit)
    settings = settings.choose("img_size", own.height, OWN)
    for name in (*NAMES, "fit"):
        value, reason = getattr(own, name), OWN
        for one in reversed(known):
            if getattr(one, name) is not None:
                value, reason = getattr(one, name), one.reason
        text = format_colours(value) if name in COLOURS else value
        settings = settings.choose(name, text, reason)
    config = settings.config
    chosen: dict[str, Any] = {
        name: parse_colours(value)
        for name in COLOURS
        if (value := getattr(config, name)) != MEASURED  # known when the images have been read
    }
    chosen |= {name: getattr(config, name) for name in ("interpolation", "crop_pct", "fit")}
    return settings, replace(own, **chosen)


def preprocess_line(settings: Settings) -> str:
    """Return the preprocessing in one line, each part with its source."""
    config, groups = settings.config, dict[str, list[str]]()
    for name in NAMES:
        value = str(getattr(config, name))
        if name != "interpolation":
            if value != MEASURED:
                value = " ".join(f"{float(number):.4g}" for number in value.split(","))
            value = f"{name.replace('crop_pct', 'crop')} {value}"
        groups.setdefault(settings.reasons.get(name, "given"), []).append(value)
    parts = [f"{', '.join(texts)} ({reason})" for reason, texts in groups.items()]
    return f"preprocessing: {'; '.join(parts)}"
