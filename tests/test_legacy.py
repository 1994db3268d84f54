"""Old spellings mean here what they meant in the scripts that people have at hand."""

from __future__ import annotations

import json
import shlex

import pytest
from conftest import SMALL_FLAGS

import swinclf
from swinclf.cli.legacy import modernise
from swinclf.device import choose_hardware
from swinclf.errors import DeviceError
from swinclf.settings import gather_settings


@pytest.fixture
def saved(planned, dataset):
    """`saved(words...)`: the settings of a training that is only planned, and what was said."""

    def run(*words, data=True):
        return planned(*[dataset] * data, *SMALL_FLAGS[:5], *words)

    return run


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


def test_a_switch_before_the_folder_does_not_swallow_it(planned, dataset):
    config, _ = planned("--freeze-layers", dataset, *SMALL_FLAGS)
    assert config["freeze_layers"] is True


@pytest.mark.parametrize("form", ["--data-path {}", "--data-path={}", "--data_path {}"])
def test_data_path_is_the_folder(saved, dataset, form):
    flag, _, folder = form.format(dataset).partition(" ")
    config, _ = saved(flag, *([folder] if folder else []), data=False)
    assert config["data"] == str(dataset)


def test_another_number_of_classes_is_said_and_changes_nothing(cli, dataset, tmp_path):
    assert modernise(["train", "x", "--num_classes", "5"])[0] == ["train", "x", "--num-classes=5"]
    done = cli("train", dataset, *SMALL_FLAGS, "--num-classes=5")
    assert done.code == 0, done.err
    assert "note: --num-classes 5 is not needed: the class folders are counted" in done.err
    said = "warning: --num-classes 5, but the folders hold 3 classes ('blue', 'green', 'red')"
    assert said in done.err
    assert done.err.index(said) < done.err.index("data: 3 classes")  # before it takes time
    assert said in cli("train", dataset, *SMALL_FLAGS, "--num-classes=5", "--dry-run").err
    assert "num_classes" not in (tmp_path / done.out.strip() / "config.json").read_text("utf-8")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99"])
def test_a_cuda_device_that_is_not_there_is_replaced_with_a_note(saved, device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    auto = choose_hardware("auto", "fp32").device
    config, err = saved("--device", device)
    assert f"--device {device}: this machine has no CUDA device; using {auto} instead" in err
    assert config["device"] == auto
    assert config["sources"]["device"] == "auto"
    assert f"using {auto} instead" in config["reasons"]["device"]


def test_a_cuda_device_that_is_not_there_in_the_other_commands(cli, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    auto = choose_hardware("auto", "fp32").device
    said = f"--device cuda:0: this machine has no CUDA device; using {auto} instead"
    picture = trained.data / "red" / "000.png"
    for words in (
        ("predict", picture, "--run", trained.path),
        ("eval", trained.data, "--run", trained.path, "--output", tmp_path / "scores"),
    ):
        done = cli(*words, "--device", "cuda:0")
        assert done.code == 0
        assert f"warning: {said}\n" in done.err
    with pytest.warns(UserWarning, match=f"using {auto} instead"):
        classifier = swinclf.load(trained.path, device="cuda:0")
    assert classifier.predict(picture)[0].label == "red"


def test_a_gpu_beyond_those_there_are_is_replaced_by_the_first(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_hardware("cuda:1", "fp32").device == "cuda:1"
    found = choose_hardware("cuda:2", "fp32")
    assert found.device == "cuda"
    assert found.note == "--device cuda:2: this machine has 2 CUDA devices; using cuda instead"


def test_the_number_of_an_only_device_is_left_out(monkeypatch):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert choose_hardware("cpu:0", "fp32").device == "cpu"
    assert choose_hardware("mps:0", "fp32").device == "mps"
    with pytest.raises(DeviceError, match="cpu:1"):
        choose_hardware("cpu:1", "fp32")


@pytest.mark.parametrize("words", [["--batch_size", "6"], ["--batch_size=6"], ["--batch-size=6"]])
def test_underscores_are_dashes(saved, words):
    assert saved(*words)[0]["batch_size"] == 6


def test_a_folder_with_underscores_keeps_them_and_the_right_number_is_no_warning(
    cli, tmp_path, dataset
):
    data = dataset.rename(tmp_path / "my_data--x")
    words = ("--out", "my_runs", "--name=a_b", "--num_classes", "3", *SMALL_FLAGS)
    done = cli("train", f"--data-path={data}", *words)
    assert done.code == 0, done.err
    assert "note: --num-classes 3 is not needed" in done.err
    assert "--num-classes 3, but" not in done.err
    run = tmp_path / "my_runs" / "a_b"
    assert json.loads((run / "config.json").read_text("utf-8"))["data"] == str(data)
    assert (run / "metrics.json").is_file()


def test_model_name_is_the_model(planned, dataset):
    words = ("--model-name", "test_vit2", "--no-pretrained", "--img-size", "32")
    assert planned(dataset, *words)[0]["model"] == "test_vit2"


@pytest.mark.parametrize("words", [["--weights", ""], ["--weights="]])
def test_empty_weights_are_random_ones(planned, dataset, tmp_path, words):
    (tmp_path / "c.json").write_text('{"weights": "gone.pth"}', "utf-8")
    small = ("--model", "test_vit", "--img-size", "32", "--config", "c.json")
    config, said = planned(*words, dataset, *small)
    assert "note: --weights '' means random weights, as in the old scripts" in said
    assert config["weights"] is None
    assert config["pretrained"] is False
    assert config["sources"]["pretrained"] == "flag"
    assert gather_settings({"data": "x", "weights": ""}).config.pretrained is False


def test_empty_weights_beside_another_choice_are_none():
    assert modernise(["train", "x", "--weights", "", "--pretrained"]) == (
        ["train", "x", "--pretrained"],
        [],
    )
    assert modernise(["inspect", "vit", "--weights", ""]) == (["inspect", "vit"], [])


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
    for flag in ("--batch_size", "--epochs", "--weights", "--model-name", "--data-path"):
        done = cli("train", dataset, flag)
        assert done.code == 2
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "modern"),
    [
        (["--compile", "data"], ["--compile=on", "data"]),
        (["data", "--compile"], ["data", "--compile=on"]),
        (["--compile", "auto"], ["--compile", "auto"]),
        (["--compile=off"], ["--compile=off"]),
    ],
)
def test_compile_alone_is_on(words, modern):
    assert modernise(["train", *words]) == (["train", *modern], [])


@pytest.mark.parametrize(
    ("words", "modern"),
    [
        (["eval", "--format", "json"], ["eval", "--json"]),
        (["runs", "--format=table", "old"], ["runs", "old"]),
        (["doctor", "--format", "xml"], ["doctor", "--format", "xml"]),
        (["predict", "x", "--format", "json"], ["predict", "x", "--format", "json"]),
    ],
)
def test_the_format_of_a_result_is_json_or_a_table(words, modern):
    assert modernise(words) == (modern, [])


SCRIPT = "--num_classes 3 --epochs 10 --batch-size 8 --lr 0.001 --lrf 0.01"
VALUES = {"epochs": 10, "batch_size": 8, "lr": 0.001, "lrf": 0.01}


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (
            "--weights '' --freeze-layers False --device cpu",
            {"pretrained": False, "freeze_layers": False, "device": "cpu"},
        ),
        (
            "--model-name vit_tiny_patch16_224 --weights '' --freeze-layers True --device cpu",
            {"model": "vit_tiny_patch16_224", "pretrained": False, "freeze_layers": True}
            | {"device": "cpu"},
        ),
        (
            "--model-name '' --weights RUN --freeze-layers True --device cuda:0",
            {"weights": "RUN", "freeze_layers": True},
        ),
        (
            "--model_name= --weights=RUN --freeze_layers=False --device=cpu",
            {"weights": "RUN", "freeze_layers": False, "device": "cpu"},
        ),
    ],
)
def test_whole_argument_lists_of_old_scripts(cli, dataset, trained, monkeypatch, words, values):
    for name in ("measure_forward", "measure_training"):
        monkeypatch.setattr(f"swinclf.commands.train.{name}", lambda *_: 0.0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    run = str(trained.path)
    given = [run if one == "RUN" else one.replace("=RUN", f"={run}") for one in shlex.split(words)]
    done = cli("train", *SCRIPT.split(), "--data-path", dataset, *given, "--dry-run", "--json")
    assert done.code == 0, done.err
    settings = json.loads(done.out)["settings"]
    expected = {**VALUES, "data": str(dataset), **values}
    if "weights" in values:
        expected["weights"] = run
    flags = {name for name, source in settings["sources"].items() if source == "flag"}
    assert {name: settings[name] for name in flags} == expected
