"""Every error a user can run into: its exit code, its three lines, and what they offer."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from command_lines import suggested_calls
from conftest import SMALL_MODEL, error_lines, write_image
from safetensors.torch import save_file

from swinclf.errors import ExitCode, SwinclfError

QUICK = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--device", "cpu")


def failure(outcome, code=ExitCode.FAILED, *, after=()):
    """The three lines of a command that ended with `code`; `after` begin the lines said before."""
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    said = outcome.err.splitlines()[:-3]
    assert len(said) == len(after), outcome.err
    assert all(line.startswith(word) for line, word in zip(said, after, strict=True)), outcome.err
    lines = error_lines(outcome)
    assert all(lines)
    return lines


def pictures(root, *names):
    """A small picture at each place."""
    for number, name in enumerate(names):
        write_image(root / name, (90, 90, 90), seed=number)
    return root


# Folders


@pytest.mark.usefixtures("dataset")
def test_no_such_folder(cli):
    expected, found, hint = failure(cli("train", "colors"))
    assert expected == "a folder of class folders at 'colors'"
    assert found == "nothing of that name"
    assert hint == "did you mean 'colours'?"
    assert "swinclf demo" in failure(cli("train", "/no/such/place"))[2]


def test_a_file_for_a_folder(cli, tmp_path):
    (tmp_path / "photos.zip").touch()
    _, found, hint = failure(cli("train", "photos.zip"))
    assert found == "an archive (.zip)"
    assert hint == "unpack it, and name the folder that holds the class folders"
    for command in ("train", "check"):
        _, found, hint = failure(cli(command, "https://example.org/d"))
        assert found == "a web address, 'https://example.org/d'"
        assert "download the dataset" in hint
    (tmp_path / "notes.txt").touch()
    assert failure(cli("train", "notes.txt"))[1] == "a file"


def test_home_that_the_shell_did_not_expand(cli, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert failure(cli("train", "~/colors"))[2] == f"did you mean '{dataset}'?"
    assert f"'{tmp_path / 'runs' / 'x'}'" in failure(cli("predict", "a", "--run=~/runs/x"))[0]
    assert failure(cli("predict", "a", "--run", "~nobody-here"))[0] == "a run at '~nobody-here'"
    (tmp_path / "~").mkdir()
    assert "'~/colors'" in failure(cli("train", "~/colors"))[0]


def test_the_data_folder_of_a_fresh_clone(cli, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "README.md").write_text("Put your images here.")
    expected, found, hint = failure(cli("train", "data"))
    assert "class folders with images" in expected
    assert "data/daisy/" in expected
    assert found == "no folder in it, only 'README.md'"
    assert "swinclf demo" in hint


def test_one_class_is_left_when_the_other_cannot_be_read(cli, tmp_path):
    pictures(tmp_path, "data/cats/1.png", "data/cats/2.png")
    (tmp_path / "data" / "dogs").mkdir()
    (tmp_path / "data" / "dogs" / "1.png").write_bytes(b"no picture")
    found = failure(cli("train", "data", *QUICK))[1]
    assert found.startswith("1: 'cats' (no readable image in 'dogs'); 1 files skipped, 1 of them: ")


def test_not_one_readable_image(cli, tmp_path):
    for name in ("cats/1.png", "dogs/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).write_bytes(b"no picture")
    assert "none with a readable image" in failure(cli("train", "data", *QUICK))[1]


def test_val_is_not_there(cli, dataset):
    assert "'held'" in failure(cli("train", dataset, "--val", "held"))[0]


def test_results_would_be_written_into_the_dataset(cli, trained):
    before = sorted(trained.data.rglob("*"))
    for words in ((), (trained.data,)):
        expected, _, hint = failure(
            cli("eval", *words, "--run", trained.path, "--output", trained.data / "scores"),
            ExitCode.USAGE,
        )
        assert "nothing is ever written into a dataset" in expected
        assert hint == f"--output '{trained.data.parent / 'scores'}'"
    itself = cli("eval", "--run", trained.path, "--output", trained.data)
    assert failure(itself, ExitCode.USAGE)[2] == f"--output '{trained.data.parent / 'output'}'"
    image = next(trained.data.rglob("*.png"))
    for option in ("--output", "--page"):
        words = ("--run", trained.path, option, trained.data / "new" / "labels.html")
        _, _, hint = failure(cli("predict", image, *words), ExitCode.USAGE)
        assert hint == f"{option} '{trained.data.parent / 'labels.html'}'"
    assert sorted(trained.data.rglob("*")) == before


def test_a_folder_and_a_name_may_be_auto(cli, dataset, tmp_path):
    dataset.rename(tmp_path / "auto")
    done = cli("train", "auto", *QUICK, "--epochs", "1", "--name", "auto")
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "auto" / "model.safetensors").is_file()


def test_an_out_that_is_a_file(cli, dataset, tmp_path):
    (tmp_path / "runs").touch()
    assert "a file" in failure(cli("train", dataset, *QUICK, "--epochs", 1))[1]


def test_a_name_that_is_taken(cli, dataset, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    _, found, hint = failure(
        cli("train", dataset, *QUICK, "--epochs", 1, "--name", "mine"), ExitCode.USAGE
    )
    assert found == "'mine' already exists"
    assert "another --name" in hint


def test_names_with_line_feeds_stay_on_one_line(cli, tmp_path):
    pictures(tmp_path, "data/a\nb\u2028c/1.png", "data/a\nb\u2028c/2.png")
    assert failure(cli("train", "data", *QUICK))[1] == r"1: 'a\nb\u2028c'"
    failure(cli("train", "no\nsuch\x0bfolder\x1b[31m"))
    failure(cli("predict", "x.png", "--run", "no\nrun"))


# Usage


def test_nothing_to_train_on(cli):
    assert failure(cli("train"), ExitCode.USAGE)[1] == "none"


def test_everything_that_is_wrong_with_the_settings_is_said_at_once(cli, dataset, tmp_path):
    (tmp_path / "settings.json").write_text(json.dumps({"epoch": 3, "val_split": 7, "fit": "big"}))
    _, found, hint = failure(
        cli("train", dataset, "--config", "settings.json", "--name", "a/b"), ExitCode.USAGE
    )
    assert "no setting 'epoch' (did you mean 'epochs'?)" in found
    assert "val_split" in found
    assert "crop, pad, squash" in found
    assert "a/b" in found
    assert "--help" in hint


def test_a_settings_file_that_is_none(cli, dataset, tmp_path):
    (tmp_path / "settings.toml").write_text("epochs = = 3")
    failure(cli("train", dataset, "--config", "settings.toml"), ExitCode.USAGE)
    failure(cli("train", dataset, "--config", "gone.json"), ExitCode.USAGE)
    for text in ('{"epochs": 3, "sources": ["x"]}', '{"sources": {"lr": "auto"}, "reasons": 2}'):
        (tmp_path / "settings.json").write_text(text)
        expected, _, _ = failure(cli("train", dataset, "--config", "settings.json"), ExitCode.USAGE)
        assert expected == "sources and reasons in 'settings.json' as a training writes them"


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "cuda:", "cuda:-1", "cuda0", ""])
def test_a_device_that_is_none(cli, dataset, device):
    expected, found, _ = failure(cli("train", dataset, "--device", device), ExitCode.USAGE)
    assert expected == "auto, cpu, cuda, cuda:N or mps for --device"
    assert found == repr(device)


def test_a_device_there_is_none_of(cli, dataset):
    assert "'cpu:1'" in failure(cli("train", dataset, "--device", "cpu:1"))[0]


# Networks and weights


def test_an_unknown_tag(cli, dataset):
    expected, found, hint = failure(
        cli("train", dataset, "--model", "swin_tiny_patch4_window7_224.ms_in2k")
    )
    assert "swin_tiny_patch4_window7_224.ms_in1k" in expected
    assert "'ms_in2k'" in found
    assert hint.startswith("--model swin_tiny_patch4_window7_224.ms_in")


def test_a_network_that_is_no_image_classifier(cli, dataset, monkeypatch):
    class Denoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 3, 1)

        def forward_features(self, pictures):
            return self.layer(pictures)

        def forward_head(self, pictures):
            return pictures

    monkeypatch.setattr("timm.create_model", lambda *_, **__: Denoiser())
    expected, found, _ = failure(cli("train", dataset, *QUICK))
    assert "an image classifier" in expected
    assert f"'{SMALL_MODEL}'" in expected
    assert "(1, 3, 32, 32)" in found


def test_a_size_that_a_network_cannot_have(cli, dataset):
    words = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 8)  # half of one patch
    expected, _, hint = failure(cli("train", dataset, *words))
    assert "8 px" in expected
    assert "--img-size" in hint


def test_weights_that_do_not_fit(cli, dataset, tmp_path):
    save_file({"blocks.0.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    expected, found, hint = failure(cli("train", dataset, *QUICK, "--weights", "other.safetensors"))
    assert "tensors" in expected
    assert "cls_token" in found
    assert "file" in hint


def test_weights_of_a_run_of_another_network(cli, dataset, trained):
    words = ("--weights", trained.path, "--model", "test_vit2", "--img-size", 32)
    assert "the file has" in failure(cli("train", dataset, *words))[1]


# Runs


def test_no_run_yet(cli):
    for words in (("predict", "x.png"), ("eval",), ("export",)):
        expected, _, hint = failure(cli(*words))
        assert "a finished run under 'runs'" in expected
        assert hint == "swinclf train DATA, or --run RUN"


def test_a_run_that_is_not_found(cli, trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "runs" / "flowers-1")
    expected, found, hint = failure(cli("predict", "x.png", "--run", "runs/flowers-2"))
    assert expected == "a run at 'runs/flowers-2'"
    assert found == "no such file or folder"
    assert hint == "did you mean 'runs/flowers-1'?"


def test_a_folder_or_file_that_is_no_run(cli, tmp_path):
    (tmp_path / "notes.txt").touch()
    assert ".txt" in failure(cli("eval", "--run", "notes.txt"))[1]
    (tmp_path / "empty").mkdir()
    assert "a folder without a model" in failure(cli("eval", "--run", "empty"))[1]


# Training


def test_out_of_memory_in_training(cli, dataset, monkeypatch):
    error = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    def too_large(*_):
        raise type(error)(*error.args)  # one that was raised keeps its frames, and their threads

    monkeypatch.setattr("swinclf.training.loop._train_step", too_large)
    outcome = cli("train", dataset, *QUICK, "--epochs", 1, "--batch-size", 16)
    assert outcome.code == ExitCode.FAILED
    assert "Traceback" not in outcome.err
    expected, found, hint = error_lines(outcome)
    assert "memory on the device" in expected
    assert "it ran out" in found
    assert "--batch-size 8," in hint


def test_out_of_memory_in_predicting(cli, trained, monkeypatch):
    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("swinclf.models.compute.Computer.outputs", too_large)
    outcome = cli("predict", trained.data / "blue", "--run", trained.path)
    assert "memory on cpu for one image" in failure(outcome)[0]


def test_another_runtime_error_is_not_called_out_of_memory(cli, trained, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nand more")

    monkeypatch.setattr("swinclf.models.compute.Computer.outputs", broken)
    expected, found, hint = failure(cli("predict", trained.data / "blue", "--run", trained.path))
    assert "a bug in swinclf" in expected
    assert found == "RuntimeError: mat1 and mat2 shapes cannot be multiplied"
    assert "--debug" in hint
    outcome = cli("predict", trained.data / "blue", "--run", trained.path, "--debug")
    assert "Traceback" in outcome.err
    assert outcome.code == ExitCode.FAILED


# Exports


# Output


@pytest.mark.parametrize(
    "words",
    [
        "train",
        "train DATA --lr",
        "train DATA --quiet --verbose",
        "train DATA --budget soon",
        "train DATA --model swin_tiny",
        "train DATA --model vit_tny --impl native",
        "export --format tflite",
        "compare runs/a",
        "compare absent runs/a",
        "relabel",
        "inspect runs/a --image x.png",
        "inspect runs/elsewhere",
        "models zzz",
        "runs --remove absent",
    ],
)
def test_suggested_commands_work(cli, planned, trained, tmp_path, words):
    shutil.copytree(trained.path, tmp_path / "runs" / "a")
    values = {"DATA": trained.data, "RUN": "runs/a", "FILE": "runs/a/predictions.csv"}
    _, _, hint = error_lines(cli(*(values.get(one, one) for one in words.split())))
    calls = [call for call in suggested_calls(hint) if call != ["demo"]]  # it has its own tests
    assert calls
    for call in calls:
        command, *rest = (values.get(one, one) for one in call)
        if call[:2] == ["train", "DATA"]:
            planned(*rest, *QUICK)
        else:
            done = cli(command, *rest)
            assert done.code == ExitCode.OK, f"swinclf {call}: {done.err}"


# The errors themselves


def test_an_error_is_three_lines_whatever_it_holds():
    error = SwinclfError("a\nb", found="c\r\nd\u2028e", hint="f\x0bg")
    assert len(str(error).splitlines()) == 3


def test_the_exit_codes_are_the_ones_that_are_documented():
    wanted = {"OK": 0, "FAILED": 1, "USAGE": 2, "SOME_FAILED": 3, "MISMATCH": 4}
    assert {one.name: int(one) for one in ExitCode} == {
        **wanted,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }


def test_every_kind_of_error_has_one_of_the_exit_codes():
    kinds = [SwinclfError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert len(kinds) > 9
    assert all(isinstance(kind.exit_code, ExitCode) and kind.__doc__ for kind in kinds)


def test_nothing_is_left_behind_by_a_refusal(cli, tmp_path):
    pictures(tmp_path, "data/cats/1.png", "data/cats/2.png")
    failure(cli("train", "data", *QUICK))
    assert sorted(os.listdir(tmp_path)) == ["data"]  # noqa: PTH208
