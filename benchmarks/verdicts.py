"""How often each verdict is right on simulated runs: JSON lines on stdout, one for each kind.

A run of each kind is simulated from its cause (a true accuracy, flipped labels, a rising loss), and
its figures are sampled as a training would measure them: held-out images are drawn, losses are
noisy, image sizes vary. All causes but the run's own are absent.

    python benchmarks/verdicts.py --runs 200
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import timing

from swinclf.metrics import ClassMetrics, wilson_interval
from swinclf.reporting.verdict import LabelReview, RunFigures, VerdictKind, find_kinds

Random = np.random.Generator


def sample_run(
    rng: Random,
    *,
    recalls: np.ndarray,
    train_counts: np.ndarray,
    scored: int,
) -> RunFigures:
    """Return the figures of a run: `scored` images are drawn in proportion to the classes.

    Args:
        rng: The source of randomness.
        recalls: (K,) true recall of each class.
        train_counts: (K,) training images.
        scored: Number of held-out images.
    """
    support = np.maximum(1, np.round(scored * train_counts / train_counts.sum())).astype(int)
    hits = rng.binomial(support, recalls)
    images, right = int(support.sum()), int(hits.sum())
    per_class = {
        str(index): ClassMetrics(precision=0.0, recall=hit / count, f1=0.0, support=int(count))
        for index, (hit, count) in enumerate(zip(hits, support, strict=True))
    }
    train, val = sample_losses(rng, epochs=int(rng.integers(8, 60)), rise=0.0)
    return RunFigures(
        accuracy=right / images,
        interval=wilson_interval(right, images),
        images=images,
        majority=float(support.max() / images),
        train_counts={str(index): int(count) for index, count in enumerate(train_counts)},
        per_class=per_class,
        train_losses=train,
        val_losses=val,
        labels=sample_labels(rng, int(train_counts.sum()), recalls.mean(), noise=0.01),
        gain=sample_gain(rng, images, error=1 - recalls.mean(), exponent=0.02),
        image_px=float(np.median(rng.lognormal(np.log(400), 0.4, 64))),
        input_px=224,
    )


def sample_losses(rng: Random, *, epochs: int, rise: float) -> tuple[list[float], list[float]]:
    """Return noisy losses of training and held-out images; the latter end `rise` above the minimum.

    Args:
        rng: The source of randomness.
        epochs: Number of epochs.
        rise: Fraction of the minimum, from the middle of the training on.
    """
    time = np.linspace(0, 1, epochs)
    train = 0.05 + 1.5 * np.exp(-5 * time)
    val = 0.4 + 1.2 * np.exp(-8 * time)
    val *= 1 + rise * np.clip(2 * time - 0.6, 0, None)
    noise = rng.normal(1, 0.04, (2, epochs))
    return (train * noise[0]).tolist(), (val * noise[1]).tolist()


def sample_labels(rng: Random, images: int, accuracy: float, *, noise: float) -> LabelReview:
    """Return the review of labels of which a fraction `noise` is wrong.

    An accurate classifier is confident of most images, and 2 % of its confident predictions are
    wrong by themselves (measured: benchmarks/audit.py suspects).
    """
    confident = int(rng.binomial(images, np.clip(1.2 * accuracy - 0.4, 0.01, 0.9)))
    return LabelReview(
        images=images,
        confident=confident,
        contradicted=int(rng.binomial(confident, noise + 0.02)),
    )


def sample_gain(rng: Random, scored: int, *, error: float, exponent: float) -> tuple[float, float]:
    """Return the forecast gain of doubling the images, by a power law fitted to noisy errors.

    Args:
        rng: The source of randomness.
        scored: Number of held-out images.
        error: With all training images.
        exponent: Of the true law, error ~ images^-exponent.
    """
    shares = np.log([0.1, 0.25, 0.5, 1.0])
    errors = np.clip(error * np.exp(-exponent * shares), 0, 0.95)
    measured = rng.binomial(scored, errors) / scored
    drawn = np.vstack([measured, rng.binomial(scored, measured, (200, 4)) / scored])
    slopes, offsets = np.polyfit(shares, np.log(np.maximum(drawn, 0.5 / scored)).T, 1)
    gains = drawn[0, -1] - np.exp(slopes * np.log(2) + offsets)
    return float(gains[0]), float(np.quantile(gains[1:], 0.025))


def ordinary(rng: Random, low: float = 0.7, high: float = 0.97) -> RunFigures:
    """Return a run without a fault: enough images of each class, an accuracy between two ends."""
    classes = int(rng.integers(3, 12))
    recalls = np.clip(rng.uniform(low, high) + rng.normal(0, 0.02, classes), 0, 0.995)
    counts = rng.integers(80, 160, classes)
    return sample_run(
        rng, recalls=recalls, train_counts=counts, scored=int(rng.integers(150, 1000))
    )


def good(rng: Random) -> RunFigures:
    """Return an accurate run on enough images."""
    return ordinary(rng, 0.92, 0.98)


def near_chance(rng: Random) -> RunFigures:
    """Return a run that has learned nothing: every class is answered equally often."""
    run, classes = ordinary(rng), int(rng.integers(3, 12))
    counts = rng.integers(80, 160, classes)
    return replace(
        sample_run(
            rng,
            recalls=np.full(classes, 1 / classes),
            train_counts=counts,
            scored=int(rng.integers(100, 600)),
        ),
        train_losses=run.train_losses,
        val_losses=run.val_losses,
    )


def too_few_images(rng: Random) -> RunFigures:
    """Return a run on few images: few of each class, few held out, or a steep learning curve."""
    classes = int(rng.integers(3, 12))
    recalls = np.clip(rng.uniform(0.6, 0.9) + rng.normal(0, 0.02, classes), 0, 0.97)
    kind = rng.integers(3)
    few = rng.integers(5, 15, classes) if kind == 0 else rng.integers(60, 120, classes)
    scored = int(rng.integers(25, 45)) if kind == 1 else int(rng.integers(300, 1000))
    run = sample_run(rng, recalls=recalls, train_counts=few, scored=scored)
    if kind < 2:
        return run
    steep = sample_gain(rng, run.images, error=rng.uniform(0.2, 0.4), exponent=0.3)
    return replace(run, gain=steep)


def label_noise(rng: Random) -> RunFigures:
    """Return a run with 10 to 25 % wrong labels."""
    noise = rng.uniform(0.1, 0.25)
    run = ordinary(rng, 0.85 - noise, 0.97 - noise)
    total = sum((run.train_counts or {}).values())
    return replace(run, labels=sample_labels(rng, total, run.accuracy, noise=noise))


def imbalance(rng: Random) -> RunFigures:
    """Return a run whose rare classes, a tenth of the others, are recognised far less often."""
    classes = int(rng.integers(4, 10))
    counts, recalls = np.full(classes, 400), np.full(classes, rng.uniform(0.85, 0.97))
    rare = rng.choice(classes, max(1, classes // 3), replace=False)
    counts[rare], recalls[rare] = 40, rng.uniform(0.1, 0.4)
    return sample_run(
        rng, recalls=recalls, train_counts=counts, scored=int(rng.integers(600, 1500))
    )


def overfitting(rng: Random) -> RunFigures:
    """Return a run whose held-out loss ends 40 to 150 % above its minimum."""
    losses = sample_losses(rng, epochs=int(rng.integers(15, 60)), rise=rng.uniform(0.4, 1.5))
    return replace(ordinary(rng), train_losses=losses[0], val_losses=losses[1])


def wrong_resolution(rng: Random) -> RunFigures:
    """Return a run on images of 20 to 80 px, or with an input of 32 to 96 px of large ones."""
    if rng.random() < 0.5:
        sides = rng.lognormal(np.log(rng.uniform(20, 80)), 0.2, 64)
        return replace(ordinary(rng), image_px=float(np.median(sides)))
    return replace(ordinary(rng), input_px=int(rng.choice([32, 64, 96])))


SIMULATIONS: dict[VerdictKind, Callable[[Random], RunFigures]] = {
    VerdictKind.NEAR_CHANCE: near_chance,
    VerdictKind.TOO_FEW_IMAGES: too_few_images,
    VerdictKind.LABEL_NOISE: label_noise,
    VerdictKind.IMBALANCE: imbalance,
    VerdictKind.OVERFITTING: overfitting,
    VerdictKind.WRONG_RESOLUTION: wrong_resolution,
    VerdictKind.GOOD: good,
}


def measure_verdicts(runs: int, *, seed: int) -> dict[VerdictKind, Counter[VerdictKind]]:
    """Return how often each kind is found in `runs` simulated runs of each kind."""
    found: dict[VerdictKind, Counter[VerdictKind]] = {}
    for number, (kind, simulate) in enumerate(SIMULATIONS.items()):
        rng = np.random.default_rng([seed, number])
        found[kind] = Counter(one for _ in range(runs) for one in find_kinds(simulate(rng)))
    return found


def main() -> None:
    """Print a line for each kind: found where it applies, and most often elsewhere."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = measure_verdicts(given.runs, seed=given.seed)
    for kind in VerdictKind:
        elsewhere = sum(found[other][kind] for other in VerdictKind if other != kind)
        worst = max(found[other][kind] for other in VerdictKind if other != kind)
        timing.print_row(
            kind=kind,
            found=found[kind][kind] / given.runs,
            elsewhere=elsewhere / (given.runs * (len(VerdictKind) - 1)),
            elsewhere_most=worst / given.runs,
        )


if __name__ == "__main__":
    main()
