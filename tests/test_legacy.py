"""Old spellings mean here what they meant in the scripts that people have at hand."""

from __future__ import annotations

import json

import pytest
from conftest import SMALL_FLAGS

from swinclf.cli.legacy import modernise


@pytest.fixture
def saved(cli, dataset, tmp_path):
    """`saved(words...)`: config.json of a training, and what was said."""

    def run(*words, data=True):
        folder = (dataset,) if data else ()
        done = cli("train", *folder, *SMALL_FLAGS[:-6], "--epochs", "1", *words)
        assert done.code == 0, done.err
        path = tmp_path / done.out.strip() / "config.json"
        return json.loads(path.read_text("utf-8")), done.err

    return run


pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.mark.parametrize(
    ("words", "frozen"),
    [
        (["--freeze-layers", "True"], True),
        (["--freeze-layers", "False"], False),
        (["--freeze-layers=True"], True),
        (["--freeze-layers=False"], False),
        (["--freeze_layers", "false"], False),
        (["--freeze-layers"], True),
        (["--no-freeze-layers"], False),
    ],
)
def test_freeze_layers_means_what_it_says(saved, words, frozen):
    config, _ = saved(*words)
    assert config["freeze_layers"] is frozen
    assert config["sources"]["freeze_layers"] == "flag"


def test_a_switch_before_the_folder_does_not_swallow_it(cli, dataset, tmp_path):
    done = cli("train", "--freeze-layers", dataset, *SMALL_FLAGS)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / done.out.strip() / "config.json").read_text("utf-8"))
    assert config["freeze_layers"] is True


@pytest.mark.parametrize("form", ["--data-path {}", "--data-path={}", "--data_path {}"])
def test_data_path_is_the_folder(saved, dataset, form):
    flag, _, folder = form.format(dataset).partition(" ")
    config, _ = saved(flag, *([folder] if folder else []), data=False)
    assert config["data"] == str(dataset)


@pytest.mark.parametrize("words", [["--num_classes", "5"], ["--num-classes=5"]])
def test_the_number_of_classes_is_ignored_with_a_note(saved, words):
    config, err = saved(*words)
    assert "note: --num-classes 5 is not needed and ignored" in err
    assert "num_classes" not in config


@pytest.mark.parametrize("words", [["--batch_size", "6"], ["--batch_size=6"], ["--batch-size=6"]])
def test_underscores_are_dashes(saved, words):
    assert saved(*words)[0]["batch_size"] == 6


def test_a_folder_with_underscores_keeps_them(saved, tmp_path, dataset):
    dataset.rename(tmp_path / "my_data--x")
    config, _ = saved(
        f"--data-path={tmp_path / 'my_data--x'}", "--out", "my_runs", "--name=a_b", data=False
    )
    assert config["data"] == str(tmp_path / "my_data--x")
    assert (tmp_path / "my_runs" / "a_b" / "metrics.json").is_file()


def test_model_name_is_the_model(cli, dataset, tmp_path):
    words = ("--model-name", "test_vit2", "--no-pretrained", "--img-size", "32", "--epochs", "1")
    done = cli("train", dataset, *words)
    assert done.code == 0, done.err
    config = json.loads((tmp_path / done.out.strip() / "config.json").read_text("utf-8"))
    assert config["model"] == "test_vit2"


@pytest.mark.parametrize("words", [["--weights", ""], ["--weights="]])
def test_empty_weights_are_none(saved, words):
    config, _ = saved(*words)
    assert config["weights"] is None


def test_weights_with_a_name_still_are_some(saved, trained):
    config, _ = saved("--weights", trained.path, "--img-size", "32")
    assert config["weights"] == str(trained.path)


@pytest.mark.parametrize("word", ["True", "False", "yes", "0"])
def test_pretrained_with_a_value(word):
    modern, _ = modernise(["train", "x", "--pretrained", word])
    wanted = "--pretrained" if word in ("True", "yes") else "--no-pretrained"
    assert modern == ["train", "x", wanted]


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "my_file.png", "--top-k", "3"],
        ["predict", "--", "--data_path", "--num_classes"],
        ["train", "x", "--name=num_classes"],
        [],
        ["eval", "-h"],
    ],
)
def test_whatever_is_no_old_spelling_is_left_alone(words):
    assert modernise(words) == (words, [])


def test_a_flag_at_the_end_without_its_value_is_a_usage_error(cli, dataset):
    for flag in ("--batch_size", "--epochs"):
        done = cli("train", dataset, flag)
        assert done.code == 2
        assert "Traceback" not in done.err
