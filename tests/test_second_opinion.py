"""The second opinion: its parts on numbers whose truth is known, and all of it in a poor run."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from conftest import error_lines, stored_confidence, train_poorly, write_textures
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.special import expit
from scipy.stats import combine_pvalues, multivariate_normal
from sklearn.linear_model import LogisticRegression

import swinclf
from swinclf.evaluation.calibration import thresholds
from swinclf.evaluation.second_opinion import fit_picture_classifier, fit_second_opinion
from swinclf.feature_space import BYTE, HALF, SINGLE, packed, unpacked
from swinclf.mixture import Mixture
from swinclf.second_opinion import (
    PictureClassifier,
    SecondOpinion,
    Told,
    is_known,
    p_value,
    support,
    unusualness,
)


def kinds_of(gaussians: int) -> Mixture:
    """Of places of two numbers; never asked: the pictures of these tests are numbers already."""
    shapes = ((2, 2), 2, gaussians, (gaussians, 2), (gaussians, 2))
    return Mixture(*(np.ones(shape, np.float32) for shape in shapes))


NO_KINDS = kinds_of(10)


def pictures(
    count: int, seed: int, *, unknown: bool = False, width: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Descriptions of four classes that lie close in eight directions; unknown ones between."""
    random, frame = np.random.default_rng(seed), np.random.default_rng(0)
    plane = np.linalg.qr(frame.normal(size=(width, 8)))[0]
    centres = frame.normal(0, 1.2, (4, 8))
    labels = random.integers(0, 4, count)
    places = np.zeros((count, 8)) if unknown else centres[labels]
    points = places + random.normal(0, 1, (count, 8))
    described = points @ plane.T + random.normal(0, 0.2, (count, width))
    return described.astype(np.float32), labels


def classifier_of(seed: int) -> PictureClassifier:
    learned, labels = pictures(800, seed)
    found = fit_picture_classifier(NO_KINDS, learned, labels, 4, *pictures(300, seed + 50))
    assert found is not None
    return found


def network(labels: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of a network that is right about two times in three."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, (len(labels), 4)) + 1.3 * np.eye(4)[labels]
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def opinion() -> SecondOpinion:
    by_edges, by_hues = classifier_of(1), classifier_of(2)
    seen, labels = pictures(600, 3)
    probabilities = network(labels, 4)
    told = [by_edges.tell(seen), by_hues.tell(pictures_of(labels, 5))]
    found = fit_second_opinion(by_edges, by_hues, told, probabilities, labels)
    assert found is not None
    return found


def pictures_of(labels: np.ndarray, seed: int) -> np.ndarray:
    """Other descriptions, of pictures of given classes."""
    described, drawn = pictures(80 * len(labels), seed)
    rows = [np.flatnonzero(drawn == label) for label in range(4)]
    return described[[rows[label][place] for place, label in enumerate(labels)]]


def test_a_classifier_is_the_discriminant_of_its_clouds() -> None:
    found = classifier_of(1)
    seen, labels = pictures(500, 7)
    told = found.tell(seen)
    assert (told.log_probabilities.argmax(1) == labels).mean() > 0.7
    space = found.space
    along = (seen - space.mean) @ space.basis @ space.whiten
    likely = np.stack([multivariate_normal(one).pdf(along) for one in space.centres], 1)
    likely **= 1 / found.temperature
    expected = likely / likely.sum(1, keepdims=True)
    assert_allclose(np.exp(told.log_probabilities), expected, atol=2e-3)
    assert 0.7 < np.median(told.strangeness) < 1.3


def test_a_class_that_was_not_learned_is_never_said() -> None:
    learned, labels = pictures(800, 1)
    kept = labels != 2
    found = fit_picture_classifier(NO_KINDS, learned[kept], labels[kept], 4, *pictures(300, 51))
    assert found is not None
    assert found.classes == (0, 1, 3)
    told = found.tell(pictures(100, 7)[0])
    assert told.log_probabilities.shape == (100, 4)
    assert told.log_probabilities[:, 2].max() < -20
    assert_allclose(np.exp(told.log_probabilities).sum(1), 1, atol=1e-4)


@pytest.mark.parametrize(("learned", "held_out"), [(19, 300), (800, 19)])
def test_too_few_pictures_make_no_classifier(learned: int, held_out: int) -> None:
    known = (*pictures(learned, 1), 4)
    assert fit_picture_classifier(NO_KINDS, *known, *pictures(held_out, 2)) is None


def test_the_weights_are_those_of_logistic_regression(opinion: SecondOpinion) -> None:
    seen, labels = pictures(600, 3)
    probabilities = network(labels, 4)
    told = opinion.tell([seen, pictures_of(labels, 5)])
    answers = probabilities.argmax(1)
    theirs = LogisticRegression(tol=1e-8).fit(support(answers, told)[:, None], answers == labels)
    expected = [theirs.intercept_[0], theirs.coef_[0, 0]]
    assert_allclose([opinion.bias, opinion.weight], expected, rtol=1e-3)
    assert opinion.weight > 0.3


def test_a_network_that_knows_better_when_it_is_right_is_believed_itself() -> None:
    random = np.random.default_rng(0)
    by_edges, by_hues = classifier_of(1), classifier_of(2)
    seen, labels = pictures(300, 3)
    told = [by_edges.tell(seen), by_hues.tell(seen)]
    right = random.random(300) < 0.6
    said = np.where(right, labels, (labels + 1) % 4)
    for is_honest in (True, False):  # as sure as it is right, or as sure as it is wrong
        sure = np.where(right == is_honest, 0.97, 0.5) + random.uniform(-0.02, 0.02, 300)
        probabilities = np.repeat((1 - sure)[:, None] / 3, 4, axis=1).astype(np.float32)
        probabilities[np.arange(300), said] = sure
        found = fit_second_opinion(by_edges, by_hues, told, probabilities, labels)
        assert (found is None) == is_honest


def test_the_known_are_told_as_bayes_would() -> None:
    """Even p-values of known pictures, and as many of unknown ones that have density p^(-1/2)/2."""
    random = np.random.default_rng(1)
    known, unknown = random.random(400_000), random.random(400_000) ** 2
    for low in (0.05, 0.3, 0.8):
        both = [((one > low) & (one < low + 0.02)).sum() for one in (known, unknown)]
        assert is_known(np.array([low + 0.01]))[0] == pytest.approx(both[0] / sum(both), abs=0.01)


def test_unusualness_is_fishers_combination_of_p_values() -> None:
    random = np.random.default_rng(2)
    told = [Told(np.log(random.dirichlet(np.ones(3), 50)), random.random(50) + 0.5) for _ in "ab"]
    steps = [np.sort(random.random(101) * scale).astype(np.float32) for scale in (4, 3)]
    found = unusualness(told, *steps)
    for row in range(50):
        disagreed = -(told[0].log_probabilities[row] + told[1].log_probabilities[row]).max()
        strange = told[0].strangeness[row] * told[1].strangeness[row]
        both = zip((disagreed, strange), steps, strict=True)
        chances = [p_value(np.array([value]), usual)[0] for value, usual in both]
        assert 2 * found[row] == pytest.approx(combine_pvalues(chances).statistic, rel=1e-5)


def test_p_values_are_shares_of_the_known() -> None:
    known = np.random.default_rng(3).normal(size=5000)
    usual = np.quantile(known, np.linspace(0, 1, 101)).astype(np.float32)
    new = np.array([-9, -1, 0, 1, 9], np.float32)
    expected = [1, *((known >= one).mean() for one in new[1:4]), 0.5 / 101]
    assert_allclose(p_value(new, usual), expected, atol=0.005)


def test_unknown_pictures_and_wrong_answers_are_trusted_less(opinion: SecondOpinion) -> None:
    seen, labels = pictures(1000, 11)
    told = opinion.tell([seen, pictures_of(labels, 12)])
    probabilities = network(labels, 13)
    trust = opinion.trust(probabilities.argmax(1), told)
    assert trust.min() == 0
    assert trust.max() <= 2 / 3
    assert (trust == 0).mean() == pytest.approx(0.1, abs=0.05)
    right = probabilities.argmax(1) == labels
    assert trust[right].mean() > 2 * trust[~right].mean()
    strangers = opinion.tell([pictures(1000, seed, unknown=True)[0] for seed in (14, 15)])
    unsure = opinion.trust(probabilities.argmax(1), strangers)
    assert trust.mean() > 2 * unsure.mean()
    far = opinion.tell([seen + 30, seen - 30])
    assert_array_equal(opinion.trust(probabilities.argmax(1), far), 0)


def test_trust_is_of_the_answer_and_of_the_picture(opinion: SecondOpinion) -> None:
    seen, labels = pictures(300, 11)
    told = opinion.tell([seen, pictures_of(labels, 12)])
    chance = p_value(unusualness(told, opinion.disagreed, opinion.strange), opinion.unusual)
    right = expit(opinion.bias + opinion.weight * support(labels, told))
    root = np.sqrt(chance)
    expected = np.where(chance < 0.1, 0, right * root / (root + 0.5))
    assert_allclose(opinion.trust(labels, told), expected, atol=1e-6)


def test_thresholds_on_trust_keep_their_promise(opinion: SecondOpinion) -> None:
    seen, labels = pictures(600, 3)
    probabilities = network(labels, 4)
    trust = opinion.trust(probabilities.argmax(1), opinion.tell([seen, pictures_of(labels, 5)]))
    rows = thresholds(trust, probabilities.argmax(1) == labels)
    fresh, truth = pictures(3000, 21)
    answers = network(truth, 22)
    believed = opinion.trust(answers.argmax(1), opinion.tell([fresh, pictures_of(truth, 23)]))
    right = answers.argmax(1) == truth
    assert rows[-1].precision >= 0.9
    assert right.mean() < 0.7
    for row in rows:
        answered = believed >= row.trust
        assert right[answered].mean() > row.precision - 0.05
        assert answered.mean() == pytest.approx(row.coverage, abs=0.08)


def test_what_is_read_back_trusts_the_same(opinion: SecondOpinion) -> None:
    again = SecondOpinion.from_dict(json.loads(json.dumps(opinion.to_dict())))
    seen, labels = pictures(200, 11)
    ours, theirs = (one.trust(labels, one.tell([seen, seen])) for one in (opinion, again))
    assert_array_equal(ours, theirs)
    values = opinion.to_dict()
    values["by_hues"]["classes"] = [0, 1]
    with pytest.raises(ValueError, match="4 of 4 classes"):
        SecondOpinion.from_dict(values)
    for broken, words in (
        ({"temperature": 0}, "number > 0"),
        ({"kinds": kinds_of(5).to_dict()}, "20 num"),
    ):
        values["by_hues"] = opinion.by_hues.to_dict() | broken
        with pytest.raises(ValueError, match=words):
            SecondOpinion.from_dict(values)


@pytest.mark.parametrize(("kind", "near"), [(BYTE, 5e-3), (HALF, 6e-4), (SINGLE, 0)])
def test_numbers_are_kept_as_well_as_is_said(kind: str, near: float) -> None:
    array = np.random.default_rng(0).uniform(-3, 3, (7, 5)).astype(np.float32)
    again = unpacked(json.loads(json.dumps(packed(array, kind))))
    assert_allclose(again, array, atol=near * 3, rtol=0)
    assert_array_equal(unpacked(packed(again, kind)), again)
    assert_array_equal(unpacked(packed(0 * array, kind)), 0)
    with pytest.raises(ValueError, match="numbers kept as"):
        unpacked({**packed(array), "kind": "<f8"})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose network tells little, with pictures of two textures that it never saw beside."""
    root = tmp_path_factory.mktemp("second")
    data = write_textures(root / "data", ("across", "along", "checks"), per_class=60, seed=0)
    mixed = ("across", "along", "checks", "slant", "plain")
    write_textures(root / "mixed", mixed, per_class=20, seed=1)
    return train_poorly(data, epochs=5)


def test_it_tells_unknown_from_known_where_the_network_cannot(run, cli):
    done = cli("eval", run.parent.parent / "mixed", "--run", run, "--reject", "0.8")
    assert done.code == 3, done.err
    numbers = re.search(
        r"AUROC (0\.\d+) by trust \((0\.\d+) by probability, (0\.\d+) by strangeness\)", done.err
    )
    assert numbers, done.err
    trust, probability, strangeness = map(float, numbers.groups())
    assert trust > 0.75
    assert trust > max(probability, strangeness) + 0.2
    page = next(run.glob("eval-*/report.html")).read_text("utf-8")
    assert "it has a second opinion" in page
    assert "Least trust" in page
    assert f"by little trust {trust:.3g}" in page


def test_held_out_images_are_answered_as_they_were_when_it_was_found(run, cli):
    """What an image is trusted from its file is what it was trusted at the end of training."""
    rows = [row for row in stored_confidence(run)["thresholds"] if row[0] in (0.5, 0.7, 0.9)]
    assert rows
    for precision, least, coverage in rows:
        done = cli("eval", "--run", run, "--split", "val", "--reject", precision)
        answered = re.search(r"([\d.]+)% of (\d+) images answered", done.err)
        assert answered, done.err
        assert least > 0
        assert float(answered[1]) / 100 == pytest.approx(coverage, abs=1.01 / int(answered[2]))


def test_files_pictures_arrays_and_exports_are_trusted_alike(run, cli, tmp_path):
    folder, file = run.parent.parent / "mixed", tmp_path / "model.onnx"
    assert cli("export", "--run", run, "--output", file).code == 0
    words = ("--reject", "0.7", "--format", "json")
    ours, theirs = (
        [one["label"] for one in json.loads(cli("predict", folder, "--run", at, *words).out)]
        for at in (run, file)
    )
    assert ours == theirs
    assert len(set(ours)) == 4, "unknown and each class"
    loaded, paths = swinclf.load(run), sorted(folder.rglob("*.png"))
    opened = [Image.open(path) for path in paths]
    for inputs in (paths, opened, [np.asarray(one) for one in opened]):
        assert [one.label for one in loaded.predict(inputs, reject=0.7)] == ours


def test_a_sure_network_needs_none(trained):
    assert stored_confidence(trained.path)["second"] is None


def test_a_damaged_one_is_refused(run, cli, tmp_path):
    file = tmp_path / "model.safetensors"
    values = stored_confidence(run)
    values["second"]["by_edges"]["kinds"]["offset"]["shape"] = [3]
    with safe_open(run / "model.safetensors", framework="np") as whole:
        metadata = {**whole.metadata(), "calibration": json.dumps(values)}
    save_file(load_file(run / "model.safetensors"), file, metadata=metadata)
    done = cli("predict", run.parent.parent / "mixed", "--run", file, "--reject", "0.7")
    assert done.code == 1
    assert "a whole model card" in error_lines(done)[0]
