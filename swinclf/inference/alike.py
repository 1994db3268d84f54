"""Which training images a network takes for most alike to an image that it was judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swinclf.evaluation.neighbours import nearest
from swinclf.evaluation.sections import Neighbour
from swinclf.inference.calibrate import Measured


def most_alike(measured: Measured, paths: Sequence[str]) -> Mapping[str, Sequence[Neighbour]]:
    """The nearest of the training images that were looked at, by what the network sees in them.

    Args:
        measured: Holds the features of held-out and of training images.
        paths: Images to find neighbours of; those that are not among the held-out ones get none.
    """
    judged, known = measured.judged, measured.known
    if judged is None or known is None or judged.features is None or known.features is None:
        return {}
    row_of = {image.path: row for row, image in enumerate(judged.images)}
    asked = [path for path in paths if path in row_of]
    queries = judged.features[[row_of[path] for path in asked]]
    images = [(image.path, image.label) for image in known.images]
    return dict(zip(asked, nearest(queries, known.features, images), strict=True))
