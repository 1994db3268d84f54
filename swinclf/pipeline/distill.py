"""What a student learns of its teacher: the training objective, and the comparison at the end."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional as F

from swinclf.data.folder import TRAIN
from swinclf.pipeline.plan import Plan, Teaching
from swinclf.reporting.paired_comparison import PredictionPair
from swinclf.reporting.report_data import PredictionRow
from swinclf.reporting.teacher_scores import TeacherScores
from swinclf.training.distillation import Distillation, TeacherFeatures
from swinclf.training.feature_extraction import MIRROR, PLAIN
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.teacher_features import CachedFeatures

STANDARDISED_ON = 20_000  # images: more would tell mean and deviation no better


def objective_of(teaching: Teaching, plan: Plan, device: str) -> Distillation:
    """Return the loss of a distillation, on the device that trains."""
    table, terms = teaching.table, teaching.terms
    labelled = [plan.look.digests[one.path] for one in plan.dataset.of(TRAIN)]
    digests = [*labelled, *(teaching.unlabelled.digests if teaching.unlabelled else ())]
    teacher: TeacherFeatures
    if teaching.online is not None:
        teacher = teaching.online
    else:
        views = (PLAIN, MIRROR) if plan.config.mirror else (PLAIN,)
        rows = table.rows([digest + view for view in views for digest in digests])
        teacher = CachedFeatures(table.whole, rows)
    sample = labelled[:: 1 + len(labelled) // STANDARDISED_ON]
    return Distillation(
        teacher,
        teaching.head,
        table.gather([digest + PLAIN for digest in sample]),
        terms,
        linear_classifiers(plan.start.network)[0].in_features if terms.features else 0,
    ).to(device)


def teacher_scores(plan: Plan, answers: Sequence[PredictionRow]) -> TeacherScores | None:
    """Return what the teacher scores on the images that the student answered; None without one."""
    teaching = plan.teaching
    if teaching is None:
        return None
    features = teaching.table.gather([plan.look.digests[one.path] + PLAIN for one in answers])
    probabilities = F.softmax(teaching.head(features), dim=1)
    best, classes = probabilities.max(dim=1), plan.dataset.classes
    pairs = [
        PredictionPair(one.path, one.label, classes[index], one.predicted, sure, one.probability)
        for one, index, sure in zip(
            answers, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
    return TeacherScores.from_pairs(teaching.name, pairs)
