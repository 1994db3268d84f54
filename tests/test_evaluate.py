"""eval: which images are scored, how classes are matched, what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import (
    COLOURS,
    SMALL_FLAGS,
    SMALL_SETTINGS,
    error_lines,
    read_rows,
    weights_of,
    write_dataset,
    write_image,
)

import swinclf
from swinclf.commands import evaluate as evaluation
from swinclf.errors import RunError
from swinclf.files import check_can_write
from swinclf.reporter import format_percent


@pytest.fixture
def score(cli, tmp_path):
    """`score(words...)`: the metrics and the rows of predictions that eval writes."""

    def run(*words, code=0):
        folder = tmp_path / f"scores-{len(list(tmp_path.glob('scores-*')))}"
        done = cli("eval", *words, "--output", folder)
        assert done.code == code, done.err
        metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
        return metrics, read_rows(folder / "predictions.csv"), folder

    return run


def _held_out(run: Path, split: str = "val") -> list[str]:
    return [row["path"] for row in read_rows(run / "split.csv") if row["split"] == split]


def _paths(rows: list[dict[str, str]]) -> list[str]:
    return [row["path"] for row in rows]


def test_a_runs_own_held_out_images_are_the_default(trained, score):
    wanted = json.loads((trained.path / "metrics.json").read_text("utf-8"))
    assert len(wanted.pop("verdict")["lines"]) == 3  # of runs only
    for words in (["--run", trained.path], [trained.data, "--run", trained.path]):
        metrics, rows, _ = score(*words)
        assert metrics.pop("loss") == pytest.approx(wanted["loss"], abs=1e-6)
        assert metrics.pop("ece") == pytest.approx(wanted["ece"], abs=1e-6)
        left = {key: value for key, value in wanted.items() if key not in ("loss", "ece")}
        assert metrics == left
        assert _paths(rows) == _held_out(trained.path)


@pytest.mark.parametrize(("split", "images"), [("val", 6), ("train", 30), ("all", 36)])
def test_another_split_on_request(trained, score, split, images):
    metrics, rows, _ = score("--run", trained.path, "--split", split)
    assert (metrics["split"], metrics["images"], len(rows)) == (split, images, images)
    if split != "all":
        assert _paths(rows) == _held_out(trained.path, split)


def test_a_split_that_is_not_there_is_refused(trained, cli):
    done = cli("eval", "--run", trained.path, "--split", "test")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "'test'" in expected
    assert found == "images of train, val"
    assert hint == "--split val"


def test_a_moved_dataset_is_recognised(trained, score, tmp_path):
    shutil.copytree(trained.data, tmp_path / "moved")
    metrics, rows, _ = score(tmp_path / "moved", "--run", trained.path)
    assert metrics["split"] == "val"
    assert _paths(rows) == _held_out(trained.path)


def test_a_foreign_folder_is_scored_whole(trained, score, cli, tmp_path):
    data = write_dataset(tmp_path / "foreign", per_class=5)
    for path in data.rglob("*.png"):
        path.rename(path.with_name(f"other-{path.name}"))
    metrics, rows, _ = score(data, "--run", trained.path)
    assert (metrics["split"], metrics["images"], len(rows)) == ("all", 15, 15)
    done = cli("eval", data, "--run", trained.path)
    assert "all of its images are scored" in done.err


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_of_a_foreign_folder_is_not_the_trainings(trained, cli, tmp_path, split):
    for name in ("train", "val"):
        write_dataset(tmp_path / "foreign" / name, per_class=2)
    words = ["eval", tmp_path / "foreign", "--run", trained.path, "--split", split]
    done = cli(*words, "--output", tmp_path / "scores")
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text("utf-8"))
    assert (metrics["split"], metrics["other_folder"]) == (split, True)
    page = (tmp_path / "scores" / "report.html").read_text("utf-8")
    assert f"6 images ({split})" in page
    assert "was trained on them" not in page
    assert "also selected the epoch" not in page


def test_the_report_says_what_the_images_of_a_run_were_used_for(trained, score):
    folder = score("--run", trained.path, "--split", "train")[2]
    page = (folder / "report.html").read_text("utf-8")
    assert "30 training images<" in page
    assert "was trained on them" in page
    folder = score("--run", trained.path)[2]
    assert "also selected the epoch" in (folder / "report.html").read_text("utf-8")


def test_classes_are_matched_by_name_and_not_by_position(trained, score, tmp_path):
    data = tmp_path / "some"
    for number in range(6):  # red is the last class of the model, and the only one here
        write_image(data / "red" / f"x{number}.png", COLOURS["red"], seed=500 + number)
    metrics, rows, _ = score(data, "--run", trained.path)
    assert metrics["classes"] == ["blue", "green", "red"]
    assert metrics["accuracy"] == 1
    assert metrics["confusion_matrix"] == [[0, 0, 0], [0, 0, 0], [0, 0, 6]]
    assert {(row["label"], row["predicted"]) for row in rows} == {("red", "red")}


def test_an_unknown_class_is_listed_and_the_rest_scored(trained, cli, tmp_path):
    data = write_dataset(tmp_path / "more", per_class=3)
    write_image(data / "violet" / "1.png", (150, 60, 200), seed=1)
    done = cli("eval", data, "--run", trained.path, "--output", tmp_path / "scores")
    assert done.code == 3
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text("utf-8"))
    assert metrics["images"] == 9
    assert read_rows(tmp_path / "scores" / "skipped.csv") == [
        {"path": "violet/1.png", "reason": "its class 'violet' is not one of the model's"}
    ]
    assert "1 images were not scored" in done.err
    assert str(tmp_path / "scores" / "skipped.csv") in done.err


def test_a_broken_image_is_listed_and_the_rest_scored(trained, score, cli, tmp_path):
    data = write_dataset(tmp_path / "more", per_class=3)
    (data / "red" / "002.png").write_bytes(b"broken")
    metrics, rows, folder = score(data, "--run", trained.path, code=3)
    assert metrics["images"] == len(rows) == 8
    assert [row["path"] for row in read_rows(folder / "skipped.csv")] == ["red/002.png"]
    (data / "red" / "002.png").unlink()
    again = cli("eval", data, "--run", trained.path, "--output", folder)
    assert again.code == 0, again.err
    assert not (folder / "skipped.csv").exists()


def test_a_run_is_not_replaced_by_scores_of_other_images(trained, cli, tmp_path):
    data, run = write_dataset(tmp_path / "more", per_class=1), tmp_path / "run"
    shutil.copytree(trained.path, run)
    (run / "skipped.csv").write_text("path,reason\n")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    done = cli("eval", data, "--run", run, "--output", run)
    assert done.code == 2
    assert error_lines(done)[1] == f"the run '{run}'"
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_other_images_under_the_same_names_are_another_dataset(trained, score, tmp_path):
    other = shutil.copytree(trained.data, tmp_path / "other")
    for number, file in enumerate(sorted(other.rglob("*.png"))):
        write_image(file, COLOURS[file.parent.name], seed=1000 + number)
    metrics, rows, _ = score(other, "--run", trained.path)
    assert metrics["split"] == "all"
    assert len(rows) == len(list(other.rglob("*.png")))


def test_a_moved_dataset_is_recognised_though_an_image_was_edited(trained, score, tmp_path):
    moved = shutil.copytree(trained.data, tmp_path / "moved")
    write_image(moved / "red" / "000.png", COLOURS["red"], seed=1000)
    metrics, rows, _ = score(moved, "--run", trained.path)
    assert metrics["split"] == "val"
    assert _paths(rows) == _held_out(trained.path)


def test_no_class_in_common_is_an_error(trained, cli, tmp_path):
    data = write_dataset(tmp_path / "others", colours={"cat": (1, 2, 3), "dog": (200, 2, 3)})
    done = cli("eval", data, "--run", trained.path)
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "'blue', 'green', 'red'" in expected
    assert "'cat', 'dog'" in found
    assert "swinclf predict" in hint
    assert "is not where this model was trained" in done.err


@pytest.mark.parametrize("by_default", [False, True])
def test_scores_that_cannot_be_written_are_an_error_before_any_work(
    dataset, tmp_path, monkeypatch, by_default
):
    monkeypatch.setattr(evaluation, "open_predictor", lambda *_: pytest.fail("opened"))
    (tmp_path / "file").write_text("", "utf-8")
    model, output = tmp_path / "model.safetensors", tmp_path / "file" / "deep" / "scores"
    if by_default:
        model, output = tmp_path / "file" / "model.safetensors", None
    with pytest.raises(RunError) as caught:
        evaluation.evaluate(model, dataset, output=output)
    assert caught.value.expected == f"to write report.html into '{tmp_path / 'file'}'"


def test_a_file_is_tried_without_changing_anything(tmp_path):
    (tmp_path / "old.json").write_text("old", "utf-8")
    for path in (tmp_path / "old.json", tmp_path / "new" / "deep" / "one.json", Path("/dev/null")):
        check_can_write(path)
    assert [path.name for path in tmp_path.rglob("*")] == ["old.json"]
    assert (tmp_path / "old.json").read_text("utf-8") == "old"
    with pytest.raises(RunError, match="found: a folder"):
        check_can_write(tmp_path)


def test_a_dataset_that_has_gone_is_an_error(cli, dataset, tmp_path):
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **SMALL_SETTINGS)
    dataset.rename(tmp_path / "elsewhere")
    done = cli("eval")
    assert done.code != 0
    expected, _, hint = error_lines(done)
    assert f"the dataset of the run, at '{dataset}'" in expected
    assert hint == f"swinclf eval DATA --run '{run.path / 'model.safetensors'}'"
    moved = cli("eval", tmp_path / "elsewhere", "--format", "json")
    assert moved.code == 0
    assert json.loads(moved.out)["images"] == len(_held_out(run.folder.path))


def test_images_added_since_are_not_scored_as_held_out(cli, dataset, tmp_path):
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **SMALL_SETTINGS)
    for number in range(20):
        write_image(dataset / "red" / f"new{number}.png", COLOURS["red"], seed=9900 + number)
    done = cli("eval", dataset, "--format", "json")
    assert json.loads(done.out)["images"] == len(_held_out(run.folder.path))


# --- the weights file alone ---------------------------------------------------------------------


@pytest.fixture
def lone(trained, tmp_path):
    """A run's model.safetensors, copied to a folder where nothing else is."""
    folder = tmp_path / "lone"
    folder.mkdir()
    return Path(shutil.copy(trained.path / "model.safetensors", folder / "mine.safetensors"))


def test_the_weights_file_alone_predicts(lone, trained, cli):
    words = ("predict", trained.data, "--format", "json")
    alone, beside = (cli(*words, "--run", where) for where in (lone, trained.path))
    assert alone.code == 0, alone.err
    assert json.loads(alone.out) == json.loads(beside.out)


def test_the_weights_file_alone_evaluates(lone, trained, score, tmp_path):
    metrics, rows, _ = score(trained.data, "--run", lone)
    assert metrics["split"] == "val"
    assert _paths(rows) == _held_out(trained.path), "the rule of the split is in the file"
    foreign = write_dataset(tmp_path / "foreign", per_class=2)
    metrics, _, _ = score(foreign, "--run", lone)
    assert (metrics["split"], metrics["images"]) == ("all", 6)


def test_the_weights_file_alone_evaluates_the_images_held_out_by_a_folder(
    cli, score, dataset, tmp_path
):
    """Inside the dataset or beside it, never by the rule of other trainings."""
    for path in sorted(dataset.glob("*/*.png")):
        split = "val" if path.stem < "004" else "train"
        moved = dataset / split / path.parent.name / path.name
        moved.parent.mkdir(exist_ok=True, parents=True)
        path.rename(moved)
    for folder in dataset.glob("[bgr]*"):
        folder.rmdir()
    options = (*SMALL_FLAGS, "--freeze-layers")
    for name, data, more, split, count in (
        ("inside", dataset, (), "val", 12),
        ("beside", dataset / "train", ("--val", dataset / "val"), "train", 24),
    ):
        done = cli("train", data, *options, *more, "--name", name)
        assert done.code == 0, done.err
        weights = tmp_path / f"{name}.safetensors"
        shutil.copy(tmp_path / "runs" / name / "model.safetensors", weights)
        metrics, rows, _ = score(data, "--run", weights)
        assert (metrics["split"], metrics["images"]) == (split, count)
        if split == "val":
            assert all(path.startswith("val/") for path in _paths(rows))


def test_the_weights_file_alone_needs_a_folder_to_score(lone, cli):
    done = cli("eval", "--run", lone)
    assert done.code == 1
    assert f"swinclf eval DATA --run '{lone}'" in error_lines(done)[2]


def test_the_weights_file_alone_starts_another_training(lone, trained, tmp_path):
    run = swinclf.train(
        trained.data, weights=str(lone), out=str(tmp_path / "runs"), epochs=2, precision="fp32"
    )
    before, after = weights_of(trained.path), weights_of(run.folder.path)
    assert before["pos_embed"].tobytes() == after["pos_embed"].tobytes()


# --- what is printed and written ----------------------------------------------------------------


def test_json_is_the_metrics_file(trained, cli, tmp_path):
    done = cli("eval", "--run", trained.path, "--format", "json", "--output", tmp_path / "scores")
    saved = json.loads((tmp_path / "scores" / "metrics.json").read_text("utf-8"))
    assert json.loads(done.out) == saved
    assert saved.keys() == {
        *("split", "images", "classes", "accuracy", "accuracy_ci95", "top5_accuracy"),
        *("balanced_accuracy", "macro_f1", "majority_accuracy", "loss", "ece", "ece_ideal"),
        *("per_class", "confusion_matrix"),
    }


def test_the_table_shows_the_measures_and_the_confused(cli, dataset, tmp_path):
    (dataset / "red").rename(dataset / "rot")
    for number in range(12):
        (dataset / "rot" / f"{number:03d}.png").unlink()
        write_image(dataset / "rot" / f"{number:03d}.png", COLOURS["blue"], seed=4000 + number)
    settings = {**SMALL_SETTINGS, "epochs": 1, "val_split": 0.5}
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **settings)
    done = cli("eval")
    assert run.metrics.accuracy < 1
    for word in ("accuracy", "balanced", "macro F1", "loss", "ECE", "precision"):
        assert word in done.out
    assert "top-5" not in done.out  # always 100 % of five classes or fewer
    assert format_percent(run.metrics.accuracy) in done.out
    ideal = format_percent(run.metrics.ece_ideal)
    assert f"{format_percent(run.metrics.ece)} ({ideal} if perfectly calibrated)" in done.out
    true, said, count = run.metrics.most_confused(1)[0]
    assert f"  {true} -> {said}: {count}" in done.out


def test_results_go_beside_the_model_under_a_new_number(cli, dataset, tmp_path):
    run = swinclf.train(dataset, out=str(tmp_path / "runs"), **SMALL_SETTINGS).folder.path
    for number in (1, 2):
        done = cli("eval")
        assert f"results in {run / f'eval-{number}'}" in done.err
        files = {path.name for path in (run / f"eval-{number}").iterdir()}
        assert files == {
            *("metrics.json", "predictions.csv", "confusion_matrix.csv"),
            *("confusion_matrix.png", "report.html"),
        }


def test_the_library_scores_like_the_command(trained, score, tmp_path):
    classifier = swinclf.load(trained.path)
    metrics = classifier.evaluate(split="all", output=tmp_path / "scores")
    assert metrics.to_dict() == score("--run", trained.path, "--split", "all")[0]
    assert classifier.evaluate(trained.data, output=tmp_path / "again").split == "val"
