"""Distillation: the training objective, and the teacher's scores at the end."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import functional as F

from swinclf.data.folder import TRAIN
from swinclf.pipeline.plan import Plan, TeacherData
from swinclf.reporting.paired_comparison import PredictionPair, TeacherScores
from swinclf.reporting.report_data import PredictionRow
from swinclf.training.feature_extraction import MIRROR, PLAIN
from swinclf.training.linear_probe import linear_classifiers
from swinclf.training.objective import Distillation, TeacherFeatures
from swinclf.training.teacher_features import CachedFeatures

STANDARDISED_ON = 20_000  # images, enough for mean and standard deviation


def build_objective(teacher_data: TeacherData, plan: Plan, device: str) -> Distillation:
    """Build the distillation loss, on the training device."""
    table, terms = teacher_data.table, teacher_data.terms
    labelled = [plan.extracted.digests[one.path] for one in plan.dataset.of(TRAIN)]
    digests = [*labelled, *(teacher_data.unlabelled.digests if teacher_data.unlabelled else ())]
    teacher: TeacherFeatures
    if teacher_data.online is not None:
        teacher = teacher_data.online
    else:
        views = (PLAIN, MIRROR) if plan.config.mirror else (PLAIN,)
        rows = table.rows([digest + view for view in views for digest in digests])
        teacher = CachedFeatures(table.whole, rows)
    sample = labelled[:: 1 + len(labelled) // STANDARDISED_ON]
    return Distillation(
        teacher,
        teacher_data.head,
        table.gather([digest + PLAIN for digest in sample]),
        terms,
        linear_classifiers(plan.start.network)[0].in_features if terms.features else 0,
    ).to(device)


def score_teacher(plan: Plan, rows: Sequence[PredictionRow]) -> TeacherScores | None:
    """Score the teacher on the images that the student was scored on; None without a teacher."""
    teacher_data = plan.teacher_data
    if teacher_data is None:
        return None
    features = teacher_data.table.gather([plan.extracted.digests[one.path] + PLAIN for one in rows])
    probabilities = F.softmax(teacher_data.head(features), dim=1)
    best, classes = probabilities.max(dim=1), plan.dataset.classes
    pairs = [
        PredictionPair(
            one.path, one.label, classes[index], one.predicted, confidence, one.probability
        )
        for one, index, confidence in zip(
            rows, best.indices.tolist(), best.values.tolist(), strict=True
        )
    ]
    return TeacherScores.from_pairs(teacher_data.name, pairs)
