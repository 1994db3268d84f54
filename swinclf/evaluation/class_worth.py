"""Of which class more images would help: what its last doublings brought, carried on.

The probability of the right class is what is forecast, over the held-out images of all classes:
accuracy changes too little by the images of one class to be told from luck.

Letters: N training images, M held-out images, R directions, K classes, T draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from swinclf.evaluation.discriminant import Discriminant, Floats, Labels
from swinclf.evaluation.sections import ClassWorth

CLASSES_MOST = 12  # whose worth is told: those with the most held-out images missed
IMAGES_FEWEST = 8  # of a class: a quarter of fewer has no spread
HELD_OUT_FEWEST = 40
DRAWS = 5  # of a half and a quarter of a class's images


def class_worths(
    train: Floats,
    train_targets: Labels,
    val: Floats,
    val_targets: Labels,
    classes: Sequence[str],
    *,
    kept: float,
    random: np.random.Generator,
) -> list[ClassWorth]:
    """What twice as many images of one class would bring, with those of the others as they are.

    Args:
        train: (N, R).
        train_targets: (N,) class indices, at least two different ones.
        val: (M, R) of the held-out images, in the same directions.
        val_targets: (M,) class indices.
        classes: Names in the order of the indices.
        kept: Share in (0, 1] of what one doubling brought that the next one brings, as seen of all
            classes together.
        random: Draws a half and a quarter of a class's images.

    Returns:
        The classes most often missed, at most twelve, that with the highest forecast gain first;
        without those of fewer than eight images, and none with fewer than forty held-out images.
    """
    model = Discriminant.fitted(train, train_targets)
    known = np.isin(val_targets, model.classes)
    val, places = val[known], np.searchsorted(model.classes, val_targets[known])
    if len(val) < HELD_OUT_FEWEST:
        return []

    def sure(one: Discriminant) -> Floats:
        """Probability of the right class of each held-out image, (M,)."""
        probabilities: Floats = one.probabilities(val)[np.arange(len(val)), places]
        return probabilities

    whole = sure(model)
    missed = np.bincount(places, 1 - whole, len(model.classes))
    missed[model.counts < IMAGES_FEWEST] = -1
    worths = []
    for place in np.argsort(-missed, kind="stable")[:CLASSES_MOST]:
        if missed[place] >= 0:
            label = int(model.classes[place])
            own = train[train_targets == label]
            gain, margin = _doubled(model, label, own, whole, sure, kept, random)
            worths.append(ClassWorth(classes[label], len(own), gain, gain - margin, gain + margin))
    return sorted(worths, key=lambda one: -one.gain)


def _doubled(
    model: Discriminant,
    label: int,
    own: Floats,
    whole: Floats,
    sure: Callable[[Discriminant], Floats],
    kept: float,
    random: np.random.Generator,
) -> tuple[float, float]:
    """What the next doubling of one class's images brings, and the half width of its interval.

    It is taken to bring the lesser of two: the part `kept` of what the last one brought, or that
    less what it brought less than the one before.
    """
    halves, quarters = np.empty((2, DRAWS, len(whole)))
    for draw in range(DRAWS):
        drawn = random.permutation(own)
        halves[draw] = sure(model.with_class(label, own, drawn[: len(own) // 2]))
        quarters[draw] = sure(model.with_class(label, own, drawn[: len(own) // 4]))
    latest, earlier = whole - halves, halves - quarters  # (T, M)
    gains = min(kept * latest, 2 * latest - earlier, key=np.mean)
    of_held_out = gains.mean(axis=0).var() / len(whole)
    # The images that are there are one draw, and those to come are another.
    of_draws = 2 * latest.mean(axis=1).var(ddof=1)
    return float(gains.mean()), 1.96 * float(np.sqrt(of_held_out + of_draws))


def class_verdict(worths: Sequence[ClassWorth]) -> str:
    """Says which class to collect images of, in a sentence, from at least one class's worth."""
    best = worths[0]
    if best.low <= 0:
        return "No class stands out: more images of one alone would not clearly help."
    return (
        f"Of one class alone, more images of {best.label} would help most: twice its "
        f"{best.images:,} might raise the probability of the right class, over the held-out images "
        f"of all classes, by {100 * best.gain:.1f} points "
        f"({100 * best.low:.1f} to {100 * best.high:.1f})."
    )
