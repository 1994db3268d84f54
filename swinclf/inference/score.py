"""Score a model on labelled images: the metrics and a row for each image, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swinclf.confidence.selective import Confidence, SelectiveScores
from swinclf.data.folder import ImageFile, SkippedFile
from swinclf.data.scanned_files import most_frequent_reason, remedy_for
from swinclf.device import fixed_batch_size
from swinclf.errors import DataError
from swinclf.inference.predictor import Outputs, Predictor
from swinclf.inference.shared_stream import ModelFile, stream_shared
from swinclf.inference.stream import ImageOutput, to_image_outputs
from swinclf.metrics import ImageScores, Metrics, compute_metrics, image_scores
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import PredictionRow
from swinclf.shell_quoting import quoted

# Images whose logits are in memory: 160 MB for 10,000 classes. A multiple of every batch size, as
# the rounding depends on the batch.
SCORED_AT_ONCE = 4096


@dataclass(frozen=True)
class ScoringResult:
    """The metrics and predictions of a scoring."""

    metrics: Metrics  # over the readable images
    rows: list[PredictionRow]  # a row for each readable image, in order
    selective: SelectiveScores  # what rejection depends on, for each row
    skipped: list[SkippedFile]  # images that could not be read

    def paths(self, root: Path) -> list[Path]:
        """Return the files of the scored images."""
        return [root / row.path for row in self.rows]


def score_images(
    predictor: Predictor,
    root: Path,
    images: Sequence[ImageFile],
    *,
    split: str,
    workers: int,
    report: Reporter,
    model: ModelFile | None = None,
) -> ScoringResult:
    """Run a model on labelled images, whose labels are its classes, and score it.

    `model` is the file of the predictor, with which other processes open it; None for this process
    alone.

    Raises:
        DataError: If not one image can be read.
    """
    files = [str(root / image.path) for image in images]
    outputs = stream_shared(predictor, model, files, workers=workers, is_padded=True)
    return score_outputs(
        predictor.card.classes,
        root,
        images,
        (output for _, output in outputs),
        split=split,
        report=report,
    )


def score_outputs(
    classes: Sequence[str],
    root: Path,
    images: Sequence[ImageFile],
    outputs: Iterable[ImageOutput],
    *,
    split: str,
    report: Reporter,
) -> ScoringResult:
    """Score outputs that have been computed for labelled images, one for each image, in order.

    Raises:
        DataError: If not one image could be read.
    """
    index = {name: number for number, name in enumerate(classes)}
    scores: list[ImageScores] = []
    rows: list[PredictionRow] = []
    selective: list[tuple[float, float]] = []
    skipped: list[SkippedFile] = []
    with report.track(f"scoring {split}", len(images)) as advance:
        for image, output in zip(images, outputs, strict=True):
            if output.probabilities is None:
                skipped.append(SkippedFile(image.path, output.error, image.label))
            else:
                one = image_scores(output.probabilities, index[image.label])
                scores.append(one)
                predicted = classes[one.predicted]
                rows.append(PredictionRow(image.path, image.label, predicted, one.confidence))
                selective.append(output.selective_scores)
            advance(1)
    if not rows:
        reason, count = most_frequent_reason(skipped)
        raise DataError(
            f"at least one readable image to score in '{root}'",
            found=f"{len(images):,} files, none readable; {count:,} of them: {reason}",
            hint=remedy_for(reason)
            or f"swinclf check {quoted(root)}, which lists the reason for each",
        )
    metrics = compute_metrics(classes, scores, split)
    return ScoringResult(metrics, rows, SelectiveScores.from_rows(selective), skipped)


def to_image_outputs_in_batches(
    outputs: Outputs, confidence: Confidence, device: str
) -> Iterator[ImageOutput]:
    """Yield the outputs of each image, computed in the batches that a device scores images in."""
    size = fixed_batch_size(device)
    for start in range(0, len(outputs.logits), size):
        rows = slice(start, start + size)
        yield from to_image_outputs(outputs.rows(rows), confidence)
