"""A prediction, and its JSON: the same from the command line and from the server.

Imports nothing that takes time, as the command line loads it for --help.
"""

from __future__ import annotations

from dataclasses import dataclass

from swinclf.files import json_text

REJECT_COLUMNS = ("withheld_label", "ood_score")


@dataclass(frozen=True, repr=False)
class Prediction:
    """The prediction for one input.

    Attributes:
        path: The input as it was given; empty for an image in memory.
        label: The most likely class, or `unknown` if the prediction is rejected; empty if the
            input could not be read.
        probability: Of the most likely class, in [0, 1].
        top: The most likely classes with their probabilities, best first.
        error: Why the input could not be read; empty if it could.
        ood_score: Out-of-distribution score, about 1 for an image like the training images; None
            from a model without a feature space.
        is_unknown: Whether the prediction was rejected: `top` has the withheld classes.
    """

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    error: str = ""
    ood_score: float | None = None
    is_unknown: bool = False

    @property
    def margin(self) -> float:
        """The probability of the most likely class less that of the next in `top`."""
        return self.probability - (self.top[1][1] if len(self.top) > 1 else 0.0)

    @property
    def withheld(self) -> dict[str, object]:
        """What rejection adds to a record: the label that it withheld, and why."""
        label = self.top[0][0] if self.is_unknown else ""
        return dict(zip(REJECT_COLUMNS, (label, self.ood_score), strict=True))

    def __repr__(self) -> str:
        """Return one line: the label and its probability, or the error; then the path.

        >>> Prediction("a.jpg", "rose", 0.931, (("rose", 0.931), ("daisy", 0.069)))
        Prediction(label='rose', probability=0.931, path='a.jpg')
        >>> Prediction("b.jpg", "", 0.0, (), error="no such file")
        Prediction(error='no such file', path='b.jpg')
        """
        answer = f"label={self.label!r}, probability={self.probability:.3f}"
        path = f", path={self.path!r}" if self.path else ""
        return f"Prediction({f'error={self.error!r}' if self.error else answer}{path})"


def prediction_json(one: Prediction, *, reject: bool) -> str:
    """Return a prediction as a JSON object on one line, without the line break.

    `reject` is whether predictions may be rejected, which adds `REJECT_COLUMNS`.
    """
    record: dict[str, object] = {"path": one.path}
    if one.error:
        record |= {"error": one.error}
    else:
        top = [{"label": label, "probability": share} for label, share in one.top]
        record |= {"label": one.label, "probability": one.probability, "top": top}
        record |= one.withheld if reject else {}
    return json_text(record)
