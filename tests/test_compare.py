"""compare: the statistics agree with scipy's and keep their promise; unlike images are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_FLAGS, error_lines, read_rows, unwrapped
from scipy import stats
from scipy.optimize import minimize_scalar

from swinclf.cli.run_tables import leaderboard_text
from swinclf.commands import compare as compare_command
from swinclf.commands.compare import SEED_NOTE, rank_runs
from swinclf.errors import DataError, RunError
from swinclf.files import write_csv, write_json
from swinclf.metrics import cross_validation_interval, wilson_interval
from swinclf.reporting.paired_comparison import (
    Leaderboard,
    PairedCounts,
    RunScore,
    holm,
    score_interval,
)

COUNTS = [(0, 0), (1, 0), (3, 3), (2, 12), (12, 2), (40, 61), (500, 560)]


# --- the statistics -----------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), COUNTS)
def test_mcnemar_is_scipys_binomial_test_and_statsmodels_formula(first, second):
    total = first + second
    p_value = PairedCounts(total + 5, 2, first, second).p_value
    doubled = 2 * stats.binom.cdf(min(first, second), total, 0.5)  # as statsmodels computes it
    assert p_value == pytest.approx(min(1.0, float(doubled)))
    if total:
        assert p_value == pytest.approx(stats.binomtest(first, total).pvalue)
        exact = sum(math.comb(total, k) for k in range(min(first, second) + 1)) / 2 ** (total - 1)
        assert p_value == pytest.approx(min(1.0, exact))


def score_by_search(gained, lost, images, difference):
    """The score at a difference, its nuisance share found by maximising the likelihood."""

    def minus_log_likelihood(q):
        shares = (q + difference, q, 1 - 2 * q - difference)
        counts = (gained, lost, images - gained - lost)
        return -sum(
            count * math.log(max(share, 1e-300))
            for count, share in zip(counts, shares, strict=True)
            if count
        )

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    variance = images * (2 * q + difference - difference**2)
    return (gained - lost - images * difference) / math.sqrt(variance)


@pytest.mark.parametrize(
    ("gained", "lost", "images"),
    [(12, 2, 50), (1, 0, 44), (9, 16, 54), (0, 5, 20), (40, 61, 1000), (5, 5, 10), (30, 0, 40)],
)
def test_at_the_ends_of_the_interval_the_score_is_that_of_95_percent(gained, lost, images):
    low, high = score_interval(gained, lost, images)
    assert low < (gained - lost) / images < high
    assert score_by_search(gained, lost, images, low) == pytest.approx(1.95996, abs=1e-3)
    assert score_by_search(gained, lost, images, high) == pytest.approx(-1.95996, abs=1e-3)
    mirrored = score_interval(lost, gained, images)
    assert mirrored == pytest.approx((-high, -low))


def test_intervals_of_extreme_counts():
    assert score_interval(0, 0, 30) == pytest.approx((-0.11351, 0.11351), abs=1e-5)  # Wilson's
    assert score_interval(30, 0, 30)[1] == 1.0
    assert score_interval(0, 30, 30)[0] == -1.0
    assert score_interval(1, 0, 1)[0] < 1


@pytest.mark.parametrize(
    ("images", "gained", "lost"),
    [(30, 0.1, 0.1), (100, 0.15, 0.05), (100, 0.02, 0.02), (500, 0.08, 0.03), (2000, 0.05, 0.02)],
)
def test_intervals_cover_the_truth_at_their_nominal_rate(images, gained, lost):
    rng = np.random.default_rng(images)
    draws = rng.multinomial(images, [gained, lost, 1 - gained - lost], size=2000)

    @cache
    def covers(own, other):
        low, high = score_interval(own, other, images)
        return low <= gained - lost <= high

    covered = np.mean([covers(int(own), int(other)) for own, other, _ in draws])
    # 2,000 draws: standard error 0.005. For rare changes the score interval errs on the safe side.
    assert 0.935 <= covered <= 0.99


def test_counts_of_pairs():
    outcomes = [(True, True), (True, False), (False, True), (False, True), (False, False)]
    paired = PairedCounts.from_outcomes(outcomes)
    assert paired == PairedCounts(5, 1, 1, 2)
    assert (paired.first_accuracy, paired.second_accuracy) == (0.4, 0.6)
    assert paired.difference == pytest.approx(0.2)


# --- the command --------------------------------------------------------------------------------


def write_answers(folder, answers, labels=None):
    """A folder of predictions: path -> what it was called."""
    folder.mkdir()
    rows = [
        (path, (labels or {}).get(path, path.partition("/")[0]), said, 0.75)
        for path, said in answers.items()
    ]
    write_csv(folder / "predictions.csv", ["path", "label", "predicted", "probability"], rows)
    return folder


@pytest.fixture
def two(tmp_path):
    """Twenty images: the first wrong on six roses, the second on one of them and on a tulip."""
    paths = [f"{label}/{number}.jpg" for label in ("rose", "tulip") for number in range(10)]
    right = {path: path.partition("/")[0] for path in paths}
    wrong = {f"rose/{number}.jpg": "tulip" for number in range(6)}
    return (
        write_answers(tmp_path / "a", right | wrong),
        write_answers(tmp_path / "b", right | {"rose/0.jpg": "daisy", "tulip/3.jpg": "rose"}),
    )


def test_compare_two_folders(cli, two, tmp_path):
    first, second = two
    done = cli("compare", first, second, "--format", "json", "--output", tmp_path / "c.json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told == json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert (told["first_accuracy"], told["second_accuracy"]) == (0.7, 0.9)
    assert told["difference"] == pytest.approx(0.2)
    assert told["difference_ci95"] == pytest.approx(score_interval(5, 1, 20))
    assert told["mcnemar_p"] == pytest.approx(stats.binomtest(1, 6).pvalue)
    assert [one["path"] for one in told["differing"]] == [
        *(f"rose/{number}.jpg" for number in range(6)),
        "tulip/3.jpg",
    ]
    (first / "model.safetensors").touch()
    assert cli("compare", first / "model.safetensors", second, "--format", "json").out == done.out
    table = cli("compare", first, second).out
    assert "-20.0 (" in table
    assert " 0.22\n" in table
    assert "  rose/0.jpg: rose; tulip -> daisy\n" in table
    assert "  tulip/3.jpg: tulip; tulip -> rose\n" in table
    swapped = json.loads(cli("compare", second, first, "--json").out)
    assert swapped["difference"] == pytest.approx(-0.2)
    assert swapped["difference_ci95"] == pytest.approx(score_interval(1, 5, 20))


def test_a_comparison_of_models_is_not_one_of_settings(cli, two, tmp_path):
    text = unwrapped(cli("compare", *two).out)
    assert "Another --seed alone moves accuracy by a point or more" in text
    assert "selected the epoch" not in text
    for folder, epochs in zip(two, (3, 5), strict=True):
        write_json(folder / "config.json", {"epochs": epochs})
        write_json(folder / "metrics.json", {"split": "val"})
    assert "each run: scores of images that also selected the epoch" in unwrapped(
        cli("compare", *two).out
    )
    write_json(two[0] / "config.json", {"epochs": 0})  # a linear probe
    text = unwrapped(cli("compare", *two).out)
    assert f"{two[1]}: scores of images that also selected the epoch" in text
    assert "each run" not in text
    write_json(tmp_path / "config.json", {"epochs": 3})  # both are evaluations in a run
    (two[0] / "config.json").unlink()
    (two[1] / "config.json").unlink()
    assert "each run: scores of images that also selected the epoch" in unwrapped(
        cli("compare", *two).out
    )
    write_json(tmp_path / "config.json", {"epochs": 0})
    assert "selected the epoch" not in unwrapped(cli("compare", *two).out)
    assert tmp_path.is_dir()


# --- more than two ------------------------------------------------------------------------------


def test_holm_corrects_for_the_number_of_tests():
    assert holm([]) == []
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # as R's p.adjust
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.fixture
def three(two, tmp_path):
    """The two, and one that is always right and has an image more."""
    paths = [f"{label}/{number}.jpg" for label in ("rose", "tulip") for number in range(10)]
    right = {path: path.partition("/")[0] for path in [*paths, "rose/more.jpg"]}
    return [*two, write_answers(tmp_path / "c", right)]


def test_several_are_ranked_on_the_images_of_all(cli, three, tmp_path):
    done = cli("compare", *three, "--format", "json", "--output", tmp_path / "c.json")
    assert done.code == 0
    found = json.loads(done.out)
    assert found == json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert found["images"] == 20
    assert [one["number"] for one in found["runs"]] == [3, 2, 1]
    assert [one["accuracy"] for one in found["runs"]] == [1.0, 0.9, 0.7]
    assert [one["own_images"] for one in found["runs"]] == [21, 20, 20]
    tests = [stats.binomtest(0, wrong).pvalue for wrong in (2, 6)]
    assert [one["p_value"] for one in found["runs"]] == [None, tests[0], 2 * tests[1]]
    assert found["runs"][2]["difference"] == pytest.approx(-0.3)
    assert len(found["differing"]) == 7
    assert found["differing"][0] == {
        "path": "rose/0.jpg",
        "label": "rose",
        "predicted": ["tulip", "daisy", "rose"],
    }
    lines = cli("compare", *three).out.splitlines()
    assert [line.split()[0][-1] for line in lines[3:6]] == ["c", "b", "a"]
    assert lines[6].split() == ["always", "the", "largest", "class", "50.0", "%"]
    assert "different predictions: 7 images" in lines[8]
    low, high = (100 * end for end in found["runs"][2]["difference_ci95"])
    assert f"-30.0 ({low:+.1f} to {high:+.1f})" in lines[5]


def test_the_best_linear_probe_of_the_same_images_is_a_baseline(cli, three, tmp_path):
    for folder, probe in zip(three, (0.8, 0.85, 0.95), strict=True):
        write_json(folder / "config.json", {"epochs": 3, "lr": probe})
        write_json(folder / "metrics.json", {"split": "val"})
        write_json(folder / "baseline.json", {"val_accuracy": probe})
    page = tmp_path / "c.html"
    done = cli("compare", *three, "--page", page)
    assert "linear probe, without epochs" in done.out
    assert "85.0 %" in done.out, "that of the third run is of one image more"
    text = page.read_text("utf-8")
    assert "<td>linear probe, without epochs</td><td>85.0\xa0%</td>" in text
    assert "<td>always the largest class</td><td>50.0\xa0%</td>" in text
    found = json.loads(cli("compare", *three, "--json").out)
    assert (found["majority_accuracy"], found["probe_accuracy"]) == (0.5, 0.85)
    write_json(three[1] / "config.json", {"epochs": 0})  # the run is its probe
    assert json.loads(cli("compare", *three, "--json").out)["probe_accuracy"] == 0.8
    write_json(three[0] / "metrics.json", {"split": "test"})
    assert "linear probe" not in cli("compare", *three).out


def test_the_table_of_several_fits_a_terminal_with_names_of_any_length():
    score = RunScore(
        *("runs/" + "long-" * 30 + "1", 1, 1.0, (0.998, 1.0), -0.302, (-0.355, -0.251), 1.2e-10),
        *(10_000, 1.0),
    )
    done = Leaderboard(1000, (replace(score, p_value=None), score), (), (), ())
    lines = leaderboard_text(done, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[4].startswith("runs/long-")
    assert lines[4].endswith("100.0 % (99.8 to 100.0)  -30.2 (-35.5 to -25.1)   1.2e-10")


def test_the_link_to_the_newest_run_is_not_another_run(cli, three, tmp_path):
    listed = cli("compare", *three, "--format", "json").out
    (tmp_path / "latest").symlink_to(three[0].name, target_is_directory=True)
    assert cli("compare", *three, tmp_path / "latest", "--format", "json").out == listed
    alone = cli("compare", three[0], tmp_path / "latest")
    assert error_lines(alone)[1] == "1"


def test_a_cross_validated_run_has_the_interval_of_its_metrics(cli, three):
    write_json(three[0] / "config.json", {"folds": 5})
    write_json(three[0] / "metrics.json", {"split": "cross-validation"})
    listed = json.loads(cli("compare", *three, "--format", "json").out)["runs"]
    for one in listed:
        right = round(one["accuracy"] * 20)
        expected = wilson_interval(right, 20)
        if one["run"] == str(three[0]):
            expected = cross_validation_interval(right / 20, 20, 5)
        assert one["accuracy_ci95"] == pytest.approx(expected)


def test_scores_of_training_images_are_named(cli, two):
    write_json(two[0] / "metrics.json", {"split": "train"})
    assert f"{two[0]}: scores of images that it was trained on" in unwrapped(
        cli("compare", *two).out
    )
    write_json(two[0] / "metrics.json", {"split": "train", "other_folder": True})
    assert "trained on" not in unwrapped(cli("compare", *two).out)


def test_runs_that_differ_in_their_seed_are_a_group(cli, three):
    fourth = write_answers(three[0].parent / "d", {"tulip/other.jpg": "tulip"})
    for folder, (seed, lr) in zip(
        [*three, fourth], [(0, 0.1), (1, 0.1), (0, 0.2), (1, 0.2)], strict=True
    ):
        write_json(folder / "config.json", {"seed": seed, "lr": lr, "name": folder.name})
        write_json(folder / "metrics.json", {"split": "val"})
    first, second = json.loads(cli("compare", *three, fourth, "--format", "json").out)["groups"]
    assert (first["settings"], first["seeds"]) == ("lr 0.2", [0, 1])
    assert (first["mean"], first["deviation"]) == (1.0, 0.0)
    assert second["mean"] == pytest.approx(0.8)
    assert second["deviation"] == pytest.approx(2**0.5 / 10)
    text = cli("compare", *three, fourth).out
    assert "no image was scored by all runs: each seed has its own validation images" in text
    assert "lr 0.1" in text
    assert "80.0 %  14.1 points" in text
    low, high = second["difference_ci95"]
    expected = stats.ttest_rel([0.9, 0.7], [1.0, 1.0]).confidence_interval()
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert first["difference_ci95"] is None
    assert f"{100 * low:+.1f} to {100 * high:+.1f} points" in text
    assert SEED_NOTE not in rank_runs(three[:2]).notes
    evaluation = write_answers(fourth / "eval-1", {"rose/0.jpg": "rose"})
    groups = rank_runs([*three, evaluation]).groups
    assert ("lr 0.2", (1,)) in [(one.settings, one.seeds) for one in groups]


def test_missing_seeds_are_trained_and_compared(cli, dataset, monkeypatch):
    for name, lr in (("slow", 0.0001), ("fast", 0.001)):
        assert cli("train", dataset, *SMALL_FLAGS, "--lr", lr, "--name", name).code == 0
    assert cli("train", dataset, *SMALL_FLAGS, "--lr", 0.001, "--name", "b", "--seed", 1).code == 0
    done = cli("compare", "runs/slow", "runs/fast/model.safetensors", "--seeds", 2, "--json")
    assert done.code == 0, done.err
    assert done.err.count("training slow-seed1") == 1
    assert "training fast" not in done.err, "runs/b is that one"
    groups = json.loads(done.out)["groups"]
    assert sorted((group["settings"], group["seeds"]) for group in groups) == [
        ("lr 0.0001", [0, 1]),
        ("lr 0.001", [0, 1]),
    ]
    assert not Path("runs/fast-seed1").exists()
    listed, done = [], Leaderboard(0, (), (), (), ())
    monkeypatch.setattr(compare_command, "rank_runs", lambda runs, **_: listed.extend(runs) or done)
    assert cli("compare", "runs/latest", "runs/slow", "--seeds", 2).code == 0
    assert [one.name for one in listed] == ["slow-seed1", "slow"]


def test_seeds_need_runs(cli, three):
    done = cli("compare", *three, "--seeds", 3)
    assert done.code == 1
    assert error_lines(done)[1] == "no config.json in it"
    assert cli("compare", *three, "--seeds", 1).code == 2


def test_one_alone_or_nothing_in_common_is_an_error(cli, three, tmp_path):
    done = cli("compare", three[0])
    assert done.code == 2
    assert error_lines(done)[1] == "1"
    other = write_answers(tmp_path / "d", {"rose/new.jpg": "rose"})
    assert cli("compare", *three, other).code == 1
    labels = {"rose/0.jpg": "tulip"}
    other = write_answers(tmp_path / "e", {"rose/0.jpg": "rose"}, labels=labels)
    done = cli("compare", *three, other)
    assert "1 images with another label" in error_lines(done)[1]


def test_the_page_shows_the_differing_images(cli, trained, tmp_path):
    rows = read_rows(trained.path / "predictions.csv")
    wrong = [{**row, "predicted": "green"} for row in rows]
    for name, answers in (("mine", rows), ("other", wrong)):
        (tmp_path / name).mkdir()
        write_csv(
            tmp_path / name / "predictions.csv", [*rows[0]], [one.values() for one in answers]
        )
    page = tmp_path / "new" / "c.html"
    done = cli("compare", trained.path, tmp_path / "mine", tmp_path / "other", "--page", page)
    assert done.code == 0
    assert f"saved to {page}" in done.err
    text = page.read_text("utf-8")
    changed = [row for row in rows if row["predicted"] != "green"]
    assert text.count("data:image/jpeg") == len(changed) > 0
    assert str(tmp_path) not in text
    assert str(trained.data) not in text
    assert ">mine<" in text or "/mine<" in text
    assert cli("compare", tmp_path / "mine", tmp_path / "other", "--page", page).code == 0
    assert "data:image" not in page.read_text("utf-8")  # nobody knows where the images are
    done = cli("compare", trained.path, tmp_path / "mine", "--page", trained.data / "c.html")
    assert "nothing is ever written into a dataset" in done.err


def test_two_are_compared_on_their_common_images(cli, three):
    done = cli("compare", three[0], three[2])
    assert done.code == 0, done.err
    assert "compared on the 20 of up to 21 images that all of them scored" in unwrapped(done.out)
    assert rank_runs([three[0], three[2]]).images == 20


def test_patterns_are_expanded_where_the_shell_does_not(cli, three, tmp_path):
    (tmp_path / "latest").symlink_to("c")
    assert cli("compare", f"{tmp_path}/*", "--json").out == cli("compare", *three, "--json").out
    done = cli("compare", tmp_path / "no*", three[0])
    assert error_lines(done)[1] == "no such folder"


def test_without_common_images_two_are_refused_and_both_sides_named(cli, two, tmp_path):
    third = write_answers(tmp_path / "c", {"rose/new.jpg": "rose"})
    done = cli("compare", two[0], third)
    assert (done.code, done.out) == (1, "")
    expected, found, hint = error_lines(done)
    assert str(two[0]) in expected
    assert str(third) in expected
    assert f"20 images only in '{two[0]}', e.g. 'rose/0.jpg'" in found
    assert f"1 images only in '{third}', e.g. 'rose/new.jpg'" in found
    assert "eval DATA --split all --run RUN --output scored-1, and --run RUN --output " in hint
    write_json(tmp_path / "config.json", {})
    write_json(third / "config.json", {"epochs": 1})
    hint = error_lines(cli("compare", two[0], third))[2]
    assert f"--run '{third}' --output scored-2" in unwrapped(hint)


def test_different_labels_are_refused(tmp_path):
    paths = dict.fromkeys(("rose/0.jpg", "rose/1.jpg"), "x")
    first = write_answers(tmp_path / "c", paths)
    second = write_answers(tmp_path / "d", paths, labels={"rose/1.jpg": "tulip"})
    with pytest.raises(DataError) as caught:
        rank_runs([first, second])
    assert "1 images with another label, e.g. 'rose/1.jpg': 'rose' in" in caught.value.found


def test_other_files_of_the_same_names_are_refused(tmp_path):
    folders = []
    for name, content in (("one", b"1"), ("two", b"22")):
        (tmp_path / name / "rose").mkdir(parents=True)
        (tmp_path / name / "rose" / "0.jpg").write_bytes(content)
        folders.append(write_answers(tmp_path / f"run-{name}", {"rose/0.jpg": "rose"}))
        write_json(folders[-1] / "config.json", {"data": str(tmp_path / name)})
    with pytest.raises(DataError) as caught:
        rank_runs(folders)
    assert "1 files that differ between" in caught.value.found
    (tmp_path / "two" / "rose" / "0.jpg").write_bytes(b"1")  # the dataset has only been copied
    assert rank_runs(folders).images == 1


def test_of_many_files_some_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(compare_command, "COMPARED_FILES", 4)
    folders = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.jpg").write_text(name * number, "utf-8")
        (tmp_path / name / "9.jpg").write_text(name, "utf-8")
        (tmp_path / name / "0.jpg").write_text(f"{name * 2}{'-' * (name == 'two')}", "utf-8")
        answers = {f"{number}.jpg": "rose" for number in range(10)}
        folders.append(write_answers(tmp_path / f"run-{name}", answers))
        write_json(folders[-1] / "config.json", {"data": str(tmp_path / name)})
    with pytest.raises(DataError) as caught:
        rank_runs(folders)
    assert caught.value.found.endswith("of 4 compared, e.g. '0.jpg'")


HEADER = "path,label,predicted,probability\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "no predictions.csv in it"),
        ("path,label\na,b\n", "no column predicted, probability"),
        (HEADER, "no image"),
        (HEADER + "a,b,c,much\n", "a probability that is not a number"),
    ],
)
def test_a_folder_without_answers(tmp_path, two, content, found):
    folder = tmp_path / "c"
    folder.mkdir()
    if content is not None:
        (folder / "predictions.csv").write_text(content)
    with pytest.raises(RunError) as caught:
        rank_runs([two[0], folder])
    assert caught.value.found == found
    with pytest.raises(RunError) as caught:
        rank_runs([tmp_path / "nowhere", two[0]])
    assert caught.value.found == "no such folder"
    assert "swinclf eval DATA" in caught.value.hint


def test_an_interrupted_run_is_to_be_resumed_and_a_finished_one_to_be_scored_elsewhere(
    tmp_path, two
):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "split.csv"):
        (run / name).write_text("{}")
    with pytest.raises(RunError) as caught:
        rank_runs([two[0], run])
    assert caught.value.hint == f"swinclf train --resume '{run}'"
    (run / "metrics.json").write_text("{}")
    with pytest.raises(RunError) as caught:
        rank_runs([two[0], run])
    assert caught.value.hint.startswith(f"swinclf eval --run '{run}', ")


def test_a_run_and_its_evaluation_agree(cli, trained, tmp_path):
    assert cli("eval", "--run", trained.path, "--output", tmp_path / "e").code == 0
    done = rank_runs([trained.path, tmp_path / "e"])
    assert done.differing == ()
    assert done.runs[1].p_value == 1.0
