"""Dataset diagnostics from features: label issues and the learning curve.

Label issues are labels that classifiers trained on other images consider unlikely; the learning
curve is accuracy against the number of training images, extrapolated. The one is by linear
discriminant analysis, which gives probabilities; the other by ridge regression, which from few
images is more accurate, as the head that is trained is. Both on the principal components of the
features.

Shapes: N (training) images, M held-out images, D features, R components, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from swinclf.data.folder import ImageFile
from swinclf.device import one_blas_thread
from swinclf.metrics import wilson_interval
from swinclf.reporter import Reporter, format_percent
from swinclf.reporting.report_data import LearningCurve, LearningPoint, Suspect
from swinclf.reporting.verdict import LabelReview

CONFIDENT = 0.9  # probability from which a prediction counts in the review of the labels
IMAGES_MOST = 100_000  # 256 components each in float64: 200 MB
SCORES_MOST = 50_000_000  # of images for classes in float64: 400 MB, several times
FEWEST_PER_CLASS = 2  # on average: of fewer drawn images nothing can be learned
COMPONENTS = 128  # of the features
CURVE_COMPONENTS = 256  # of the features, for the curve: many images make use of more
PENALTIES = np.logspace(-1, 5, 13)  # of ridge regression, for components of deviation 1
FOLDS = 5  # classes of fewer images are not scored
SHARES = (0.1, 0.25, 0.5, 1.0)
REPEATS = 3  # random subsets per share
FORECAST = 2.0  # times the present number of images; no extrapolation beyond it
FEWEST = 40  # held-out images below which a curve is noise
SMALL_GAIN = 0.01  # in accuracy; less is not worth collecting images for
RESAMPLED = 300  # bootstrap samples

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]


def find_label_issues(
    images: Sequence[ImageFile],
    features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    report: Reporter,
) -> tuple[list[Suspect], LabelReview | None]:
    """Return the images whose label is probably wrong, the least likely label first, and a review.

    `features` are (N, D) of a network that was not trained on these labels. A note says if only a
    part of the images is scored, or none; the review is None if no label could be judged.
    """
    targets = _targets(images, classes)
    drawn = _subsample(len(images), _images_most(classes), seed)
    if _are_too_few(drawn, images, classes):
        report.note(f"no search for label issues: it takes too much memory{_of(images, classes)}")
        return [], None
    rows = drawn[scorable_rows(targets[drawn])]
    if not len(rows):
        return [], None
    known, labels = np.unique(targets[rows], return_inverse=True)
    if len(rows) < len(images):
        report.note(f"label issues are searched in {len(rows):,} of {len(images):,} images")
    probs = out_of_fold_probabilities(features[rows], labels, seed=seed)
    suspects = []
    for row in rank_label_issues(probs, labels):
        image, suggested = images[rows[row]], int(probs[row].argmax())
        probability = float(probs[row, suggested])
        suspects.append(Suspect(image.path, image.label, classes[known[suggested]], probability))
    review = LabelReview(
        images=len(rows),
        confident=int((probs.max(axis=1) >= CONFIDENT).sum()),
        contradicted=sum(one.probability >= CONFIDENT for one in suspects),
    )
    return suspects, review


def scorable_rows(targets: Labels) -> npt.NDArray[np.intp]:
    """Return the rows of classes of at least five images; none if there is only one such class."""
    rows = np.flatnonzero(np.bincount(targets, minlength=1)[targets] >= FOLDS)
    return rows if len(np.unique(targets[rows])) > 1 else rows[:0]


@one_blas_thread()
def out_of_fold_probabilities(
    features: npt.NDArray[np.floating], labels: Labels, *, seed: int
) -> Floats:
    """Return class probabilities, (N, K), by five-fold cross-validation of a linear discriminant.

    (N, D) features, and (N,) labels from 0 to K - 1, at least five of each.
    """
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    probs: Floats = cross_val_predict(
        model, reduce_dimensions(features), labels, cv=folds, method="predict_proba"
    )
    return probs


def rank_label_issues(probs: Floats, labels: Labels) -> list[int]:
    """Return the rows that are more likely of another class, the least likely label first.

    (N, K) probabilities out of fold, (N,) labels.

    Source: Northcutt, Jiang & Chuang 2021, "Confident Learning", sec. 3: ranked by self-confidence.
    """
    own, best = probs[np.arange(len(labels)), labels], probs.max(axis=1)
    order = np.lexsort((-best, own))
    rows: list[int] = order[own[order] < best[order]].tolist()
    return rows


def fit_learning_curve(
    training: Sequence[ImageFile],
    training_features: np.ndarray,
    held_out: Sequence[ImageFile],
    held_out_features: np.ndarray,
    classes: Sequence[str],
    *,
    seed: int,
    report: Reporter,
) -> LearningCurve | None:
    """Return the learning curve of a linear classifier; None if there are too few images.

    Training features are (N, D), held-out ones (M, D). A note says if only a part of them is used,
    or if there is no curve because the classes are too many for the memory.
    """
    most = _images_most(classes)
    drawn, scored = (_subsample(len(one), most, seed) for one in (training, held_out))
    if _are_too_few(drawn, training, classes):
        report.note(f"no learning curve: it takes too much memory{_of(training, classes)}")
        return None
    if len(drawn) < len(training):
        report.note(f"the learning curve is of {len(drawn):,} of {len(training):,} images")
    if len(scored) < len(held_out):
        report.note(
            f"the learning curve is scored on {len(scored):,} of {len(held_out):,} held-out images"
        )
    return learning_curve(
        training_features[drawn],
        _targets(training, classes)[drawn],
        held_out_features[scored],
        _targets(held_out, classes)[scored],
        seed=seed,
    )


@one_blas_thread()
def learning_curve(
    train: npt.NDArray[np.floating],
    train_targets: Labels,
    val: npt.NDArray[np.floating],
    val_targets: Labels,
    *,
    seed: int,
) -> LearningCurve | None:
    """Return the accuracy with 10, 25, 50 and 100 % of each class and a forecast for twice as many.

    (N, D) features and (N,) class indices of training images, (M, D) and (M,) of held-out ones.

    Returns:
        The curve, without shares of no more images than classes; None if only one share
        remains, or with fewer than two classes or forty held-out images.

    Source: the power law of Hestness et al. 2017, Deep Learning Scaling is Predictable,
    Empirically, sec. 3.
    """
    class_count = len(np.unique(train_targets))
    if len(val_targets) < FEWEST or class_count < 2:
        return None
    both = reduce_dimensions(np.concatenate([train, val]), CURVE_COMPONENTS)
    train, val = both[: len(train)], both[len(train) :]
    random = np.random.default_rng(seed)
    points: list[LearningPoint] = []
    spreads: list[float] = []  # standard deviation of each point's accuracy over training images
    for share in SHARES:
        draws = [_part(train_targets, share, random) for _ in range(1 if share == 1.0 else REPEATS)]
        if len(draws[0]) <= class_count:  # no within-class variance to estimate
            continue
        fitted = (fit_ridge(train[rows], train_targets[rows]) for rows in draws)
        scores = [float((one.predict(val) == val_targets).mean()) for one in fitted]
        accuracy = float(np.mean(scores))
        low, high = wilson_interval(round(accuracy * len(val)), len(val))
        points.append(LearningPoint(share, len(draws[0]), accuracy, low, high))
        # Of all images there is one drawing: its deviation is that of half of them, over sqrt(2).
        alone = spreads[-1] * math.sqrt(REPEATS / 2) if spreads else 0.0
        mean_of = math.sqrt(len(scores))
        spreads.append(float(np.std(scores, ddof=1)) / mean_of if len(scores) > 1 else alone)
    if len(points) < 2:
        return None
    forecast = _forecast(points, spreads, len(val), random)
    forecasts = [forecast] if forecast else []
    return LearningCurve(points, forecasts, [_note(points, forecast)], held_out=len(val))


def _part(targets: Labels, share: float, random: np.random.Generator) -> Labels:
    """Return the rows of a random share of each class, at least one image of each."""
    parts = []
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        parts.append(random.permutation(rows)[: max(1, round(share * len(rows)))])
    return np.concatenate(parts)


def _forecast(
    points: list[LearningPoint], spreads: list[float], held_out: int, random: np.random.Generator
) -> LearningPoint | None:
    """Extrapolate the error by a power law; None if it does not fall.

    `spreads` are the standard deviations of the accuracies, as of other training images.
    """
    images = np.array([point.images for point in points], dtype=np.float64)
    errors = np.array([1 - point.accuracy for point in points])
    slope = _power_law(images, errors[None], held_out)[0]
    if not slope[0] < 0:
        return None
    # Sampling error of the forecast: refit with as many held-out images, and other training images.
    drawn = random.binomial(held_out, errors, (RESAMPLED, len(errors))) / held_out
    drawn = (drawn + random.normal(0, spreads, drawn.shape)).clip(0, 1)
    wanted = np.log(FORECAST * images[-1])
    laws = _power_law(images, drawn, held_out)
    others = np.exp(laws[:, 0] * wanted + laws[:, 1])
    error = min(float(np.exp(slope[0] * wanted + slope[1])), 1.0)
    low, high = np.quantile(1 - np.minimum(others, 1.0), [0.025, 0.975])
    return LearningPoint(
        FORECAST, round(FORECAST * images[-1]), 1 - error, min(low, 1 - error), max(high, 1 - error)
    )


def _power_law(images: Floats, errors: Floats, held_out: int) -> Floats:
    """Return slopes and intercepts of lines through log images and log error, (B, S) -> (B, 2)."""
    logs = np.log(np.maximum(errors, 0.5 / held_out))  # log of zero observed errors
    lines: Floats = np.polyfit(np.log(images), logs.T, 1).T
    return lines


def _note(points: list[LearningPoint], forecast: LearningPoint | None) -> str:
    """Return what the forecast means, no more firmly than its interval allows."""
    now = points[-1]
    if forecast is None:
        return "Accuracy does not rise with the number of images here."
    interval = f"{format_percent(forecast.low)} to {format_percent(forecast.high)}"
    if forecast.low > now.accuracy:
        return (
            f"Twice as many images might bring {format_percent(forecast.accuracy)} ({interval}) "
            f"where these bring {format_percent(now.accuracy)}."
        )
    if forecast.high < now.accuracy + SMALL_GAIN:
        return "More images like these would hardly help: other images, or another model, might."
    return (
        "There are too few held-out images to say whether more images would help: the forecast for "
        f"twice as many is {interval}, where these bring {format_percent(now.accuracy)}."
    )


def reduce_dimensions(features: npt.NDArray[np.floating], components: int = COMPONENTS) -> Floats:
    """Return the principal components, (N, D) -> (N, R), R <= components; uses no labels."""
    values = features.astype(np.float64)
    count = min(components, *values.shape)
    if count == values.shape[1]:
        centred: Floats = values - values.mean(axis=0)
        return centred
    reduced: Floats = PCA(count, svd_solver="covariance_eigh").fit_transform(values)
    return reduced


def fit_ridge(components: Floats, labels: Labels) -> RidgeClassifierCV:
    """Return a classifier fitted on (N, R) components, with the penalty of least left-out error.

    Source: Hastie, Tibshirani & Friedman 2009, The Elements of Statistical Learning, sec. 4.2.
    """
    penalties = PENALTIES * max(float(components.var()), 1e-12)
    return RidgeClassifierCV(penalties).fit(components, labels)


def _images_most(classes: Sequence[str]) -> int:
    """Return the number of images whose scores for all classes fit into memory."""
    return min(IMAGES_MOST, SCORES_MOST // max(1, len(classes)))


def _are_too_few(drawn: np.ndarray, images: Sequence[ImageFile], classes: Sequence[str]) -> bool:
    """Return whether so few of the images are drawn that most classes have none or one."""
    return len(drawn) < min(len(images), FEWEST_PER_CLASS * len(classes))


def _of(images: Sequence[ImageFile], classes: Sequence[str]) -> str:
    return f" for {len(images):,} images of {len(classes):,} classes"


def _subsample(count: int, most: int, seed: int) -> np.ndarray:
    """Return at most `most` row indices, ascending."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng([seed, 3]).choice(count, most, replace=False))


def _targets(images: Sequence[ImageFile], classes: Sequence[str]) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[image.label] for image in images], dtype=np.int64)
