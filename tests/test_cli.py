"""The command line: every command, flag and default is run, and every ending has its exit code."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from agent_docs import JSON_KEYS, LISTS
from conftest import SMALL_FLAGS, SMALL_MODEL, error_lines, read_rows, write_dataset
from typer.main import get_command

import swinclf
from swinclf import terminal
from swinclf.cli import commands, predict_command  # noqa: F401 - registers the commands
from swinclf.cli.program import app
from swinclf.config import SETTINGS, OptionGroup
from swinclf.errors import ExitCode, ExportError, Interrupted

try:
    import pty
    import resource
except ImportError:  # Windows
    pty = resource = None

SMALL = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", "32", "--epochs", "1")

# What every flag is run with: (exit code, words). {names} are filled in by `places`.
CASES: dict[str, list[tuple[int, tuple[str, ...]]]] = {
    "train": [
        (0, ("{data}",)),  # all defaults: offline, from the embedded weights
        (1, ("{data}", "--pretrained", "--model", SMALL_MODEL)),  # not to be had offline
        (1, ("--resume", "{run}")),  # it is finished
        (2, ()),
        (
            0,
            (
                *("{data}", "--model", SMALL_MODEL, "--impl", "timm", "--no-pretrained"),
                *("--no-freeze-layers", "--img-size", "32", "--train-size", "32"),
                *("--val-split", "0.3", "--fit", "pad"),
                *("--augment", "crop", "--min-crop", "0.5", "--mirror", "--epochs", "1"),
                *("--batch-size", "7", "--lr", "0.0011", "--lrf", "0.1", "--warmup", "0.2"),
                *("--patience", "3", "--weight-decay", "0.01", "--layer-decay", "0.8"),
                *("--label-smoothing", "0.05", "--drop-path", "0.05", "--clip-norm", "0.5"),
                *("--compile", "off"),
                *("--class-weights", "balanced", "--device", "cpu", "--precision", "fp32"),
                *("--cache", "--cache-gib", "0.5", "--mean", "0.485,0.456,0.406"),
                *("--std", "0.2,0.3,0.4", "--interpolation", "lanczos", "--crop-pct", "0.8"),
                *(
                    "--threads",
                    "1",
                    "--workers",
                    "1",
                    "--seed",
                    "5",
                    "--out",
                    "elsewhere",
                    "--name",
                    "mine",
                ),
            ),
        ),
        (
            0,
            (
                *("{data}", *SMALL, "--no-freeze-layers", "--teacher", "{run}"),
                *("--unlabelled", "{held}", "--teacher-temperature", "3"),
                *("--teacher-weight", "0.6", "--teacher-features", "0.5", "--test-split", "0.2"),
                *("--teacher-views", "cached"),
            ),
        ),
        (
            0,
            (
                *("{data}", *SMALL, "--teacher", "{run}", "--teacher-views", "online"),
                *("--mixup", "0.2", "--cutmix", "1", "--random-erasing", "0.25"),
                *("--rotate", "0.02", "--zoom", "0.2", "--ema", "0.99", "--select", "accuracy"),
                *("--optimizer", "muon"),
            ),
        ),
        (
            0,
            (
                *("{data}", "--weights", "{run}", "--freeze-layers", "--no-mirror", "--no-cache"),
                "--epochs",
                *("2", "--val", "{held}", "--config", "{config}", "--fit", "squash"),
                *("--augment", "none", "--class-weights", "sqrt", "--precision", "bf16"),
                *("--device", "auto", "--compile", "on"),
            ),
        ),
        (
            0,
            (
                *("{data}", *SMALL, "--freeze-stages", "1", "--augment", "trivial", "--fit"),
                *("crop", "--class-weights", "none", "--precision", "auto"),
                *("--interpolation", "bicubic", "--select", "loss", "--optimizer", "adamw"),
            ),
        ),
        (0, ("{data}", *SMALL, "--precision", "fp16", "--strict", "--interpolation", "nearest")),
        (0, ("{data}", "--weights", "{run}", "--freeze-layers", "--folds", "3")),
        (0, ("{data}", *SMALL, "--dry-run", "--json", "--budget", "1h")),
        (0, ("{data}", *SMALL, "--quiet", "--open", "--json", "--compile", "auto")),
        (2, ("{data}", "--quiet", "--verbose")),
        (1, ("{spoilt}", *SMALL, "--strict")),
        (
            3,
            ("{spoilt}", *SMALL, "--no-strict", "--epochs", "1", "--interpolation", "bilinear"),
        ),
        (
            0,
            (
                *("{data}", "--model", "vit", "--impl", "native", "--no-pretrained", "--epochs"),
                *("1", "--img-size", "32", "--model-arg", "patch_size=8", "--model-arg"),
                *("depth=2", "--model-arg", "embed_dim=24", "--model-arg", "num_heads=3"),
            ),
        ),
    ],
    "eval": [
        (0, ()),
        (0, ("{data}", "--run", "{run}", "--split", "val", "--output", "{tmp}/e1")),
        (0, ("--split", "train", "--json", "--impl", "timm", "--device", "cpu")),
        (0, ("--split", "all", "--precision", "fp32", "--workers", "2")),
        (1, ("--split", "test")),
        (0, ("--precision", "bf16", "--device", "auto")),
        (0, ("--precision", "fp16", "--strict")),
        (0, ("--precision", "auto", "--no-strict", "--json")),
        (1, ("{spoilt}", "--strict", "--json")),
        (1, ("--impl", "native")),
        (1, ("--reject", "0.9")),  # six held-out images promise less
        (0, ("--reject", "0.5")),
    ],
    "predict": [
        (2, ()),
        (0, ("{picture}",)),
        (0, ("{picture}", "--run", "{run}", "--top-k", "2", "--format", "json")),
        (0, ("{data}", "--format", "jsonl", "--output", "{tmp}/p.jsonl", "--impl", "timm")),
        (0, ("{picture}", "--format", "csv", "--device", "cpu", "--precision", "fp32")),
        (3, ("{picture}", "absent.png", "--format", "table", "--workers", "0")),
        (0, ("{picture}", "--precision", "bf16", "--device", "auto")),
        (0, ("{picture}", "--precision", "fp16", "--strict")),
        (0, ("{picture}", "--no-strict", "--json")),
        (1, ("{spoilt}", "--strict", "--output", "{tmp}/p.txt")),
        (0, ("{picture}", "--precision", "auto")),
        (1, ("{picture}", "--impl", "native")),
        (0, ("{picture}", "--reject", "0.5")),
        (0, ("{picture}", "--engine", "torch")),
        (0, ("{picture}", "--engine", "auto")),
        (0, ("{picture}", "--engine", "onnx")),
        (1, ("{picture}", "--engine", "openvino")),
        (
            0,
            (
                *("{data}", "--queue", "2", "--page", "{tmp}/p.html"),
                *("--sort-into", "{tmp}/by-class"),
            ),
        ),
    ],
    "export": [
        (0, ()),
        (
            0,
            (
                *("--run", "{run}", "--format", "onnx", "--output", "{tmp}/x.onnx"),
                *("--tolerance", "0.1", "--data", "{data}", "--impl", "timm", "--device", "cpu"),
                *("--precision", "fp32", "--embed", "none"),
            ),
        ),
        (0, ("--device", "auto", "--embed", "preprocess")),
        (0, ("--precision", "fp16", "--json", "--tolerance", "1")),
        (0, ("--precision", "int8", "--tolerance", "1")),
        (0, ("--format", "web")),
        (0, ("--all", "--output", "{tmp}/all")),
        (0, ("--format", "timm", "--output", "{tmp}/timm")),
        # test_export_formats.py writes these two; here, as the others, they cannot be written.
        *((1, ("--format", one)) for one in ("torch-export", "openvino", "coreml", "litert")),
        (1, ("--impl", "native")),
    ],
    "serve": [  # which returns at once here; test_serve.py runs it
        (0, ()),
        (
            0,
            (
                *("--run", "{run}", "--host", "0.0.0.0", "--port", "0", "--token", "secret"),
                *("--reject", "0.5", "--json", "--max-file", "8", "--max-request", "16"),
                *("--max-files", "4", "--max-pixels", "1000000", "--max-seconds", "5"),
                *("--max-queue", "16", "--impl", "timm", "--device", "cpu", "--workers", "1"),
            ),
        ),
        *[(0, ("--precision", precision)) for precision in ("auto", "fp32", "bf16", "fp16")],
        (0, ("--run", "{exported}")),
        (1, ("--reject", "0.9")),
        (1, ("--impl", "native")),
    ],
    "check": [
        (2, ()),
        (0, ("{data}",)),
        (0, ("{data}", "--strict")),
        (0, ("{data}", "--no-strict")),
        (1, ("{spoilt}", "--strict", "--output", "{tmp}/c.json")),
        (
            3,
            (
                *("{data}", "--val", "{held}", "--output", "{tmp}/c.json", "--page"),
                *("{tmp}/c.html", "--workers", "0", "--json"),
            ),
        ),
        (1, ("{tmp}/nowhere",)),
        (0, ("{data}", "--weights", "{run}", "--model", SMALL_MODEL)),
        (0, ("{data}", "--json")),
    ],
    "compare": [
        (2, ()),
        (0, ("{run}", "{run}")),
        (0, ("{run}", "{run}", "--json", "--output", "{tmp}/c.json")),
        (0, ("{run}", "{run}", "{run}", "--page", "{tmp}/c.html")),
        (1, ("{tmp}", "{run}", "--seeds", "2")),
        (1, ("{run}", "{tmp}")),
    ],
    "runs": [
        (0, ()),
        *[(0, ("{tmp}/runs", "--sort", order)) for order in ("date", "name", "data")],
        (0, ("--json",)),
        *[(0, ("--sort", order)) for order in ("model", "accuracy", "time", "size")],
        (1, ("--remove", "latest", "--yes")),
        (1, ("--remove", "absent", "--no-yes")),
    ],
    "relabel": [
        (2, ()),
        (1, ("{picture}",)),
        (2, ("{run}/split.csv", "--undo", "{config}")),
        (1, ("--undo", "{config}", "--yes")),
        (0, ("{run}/split.csv", "--data", "{data}", "--no-yes")),  # all have their labels
        (0, ("{run}/split.csv", "--data", "{data}", "--json")),
    ],
    "inspect": [
        (0, ()),  # the newest run is one of timm's test networks: there is a table
        (2, ("{run}", "--output", "{tmp}/p")),  # and nothing to draw
        (1, ("vit_tiny_patch16_224", "--pretrained")),  # not to be had offline
        (0, ("vit_tiny_patch16_224", "--img-size", "32", "--json")),
        (1, ("vit_tiny_patch16_224", "--weights", "{run}", "--image", "{picture}")),
        (
            0,
            (
                *("vit", "--img-size", "16", "--model-arg", "patch_size=8", "--model-arg"),
                *("depth=1", "--image", "{picture}", "--output", "{tmp}/p"),
            ),
        ),
    ],
    "models": [
        (0, ()),
        (0, ("swin_tiny", "--json", "--impl", "timm")),
        (0, ("swin_tiny*", "--impl", "native")),
        (2, ("swinv2", "--impl", "native")),
    ],
    "doctor": [(0, ()), (0, ("--json",))],
    "demo": [(0, ()), (0, ("--json",)), (0, ("--output", "{tmp}/sample"))],
}
GLOBAL = [
    (0, ("--version",)),
    (0, ("-V",)),
    (0, ("help",)),
    (0, ("help", "train")),
    (0, ("--help",)),
    (0, ("-h",)),
    (0, ("--debug", "models", "deit3")),
    (0, ("--show-completion",)),
    (0, ("--install-completion",)),
]


def _group():
    return get_command(app)


def _options(command):
    """(spellings, values it may have) of each option; of a switch, each of its two spellings."""
    context = command.make_context("", [], resilient_parsing=True)
    for one in command.params:
        if one.hidden:
            continue
        if one.opts[0].startswith("-") and one.name != "help":
            shown = one.display_type(context).strip("<>")
            for spelling in (*one.opts, *one.secondary_opts):
                yield spelling, shown.split("|") if "|" in shown else []


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """Two small datasets, one of them with an image that cannot be read: to be read only."""
    root = tmp_path_factory.mktemp("datasets")
    write_dataset(root / "held", per_class=2)
    spoilt = write_dataset(root / "spoilt", per_class=4)
    (spoilt / "red" / "000.png").write_bytes(b"no picture")
    return root


@pytest.fixture
def places(trained, tmp_path, monkeypatch, exported_network, network_graph, datasets):
    """What stands for the {names} of the cases; the working folder has a newest run."""
    del network_graph
    monkeypatch.setattr(
        "swinclf.training.compilation.BACKEND", "eager"
    )  # a real one takes a minute
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to(trained.path)
    (tmp_path / "mine.json").write_text('{"seed": 11, "min-crop": 0.9}')

    def refuse(_source, _path):
        raise ExportError("a faster test", found="a slow export", hint="--format onnx")

    def train_quickly(parent, **_):
        parent.mkdir()
        return SimpleNamespace(to_dict=lambda: dict.fromkeys(JSON_KEYS["demo"]))

    monkeypatch.setattr("swinclf.exporting.verified_export.SPEED_S", 0.0)
    for slow in ("export_program", "export_openvino"):
        monkeypatch.setattr(f"swinclf.exporting.writers.{slow}", refuse)
    monkeypatch.setattr("webbrowser.open", lambda _page: False)
    monkeypatch.setattr("swinclf.demo.demo", train_quickly)  # test_demo.py runs it
    monkeypatch.setattr("swinclf.commands.doctor.DECODE_SIZE", (400, 304))
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    monkeypatch.setattr(
        "swinclf.serving.server.open_socket", lambda *_: socket.create_server(("127.0.0.1", 0))
    )
    (tmp_path / "exported.onnx").write_bytes(exported_network)
    before = {path.name for path in trained.path.iterdir()}
    yield {
        "data": trained.data,
        "run": trained.path,
        "exported": tmp_path / "exported.onnx",
        "picture": trained.data / "red" / "003.png",
        "held": datasets / "held",
        "spoilt": datasets / "spoilt",
        "config": tmp_path / "mine.json",
        "tmp": tmp_path,
    }
    for path in trained.path.iterdir():  # the run is shared: what was written beside it goes
        if path.name not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


ALL = [(command, *case) for command, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(
    ("command", "code", "words"), ALL, ids=[f"{one[0]}{n}" for n, one in enumerate(ALL)]
)
def test_every_case_ends_as_it_should(cli, places, command, code, words):
    filled = [word.format(**places) for word in words]
    done = cli(command, *filled)
    assert done.code == code, done.err
    if "--strict" in words and command != "train":
        return  # the files are listed, and what could be done is printed
    if code in (1, 2) and words:
        error_lines(done)
        assert done.out == ""
    if "--json" in words:
        found = json.loads(done.out)  # one value and nothing else
        first = found[0] if command in LISTS and found else found
        is_result = "--dry-run" not in words and found != []
        assert not is_result or {*JSON_KEYS[command]} <= first.keys()
    if "--dry-run" in words:
        _assert_recorded(json.loads(done.out)["settings"], filled[1:])
    elif command == "train" and code == 0 and "--json" not in words:
        saved = json.loads((places["tmp"] / done.out.strip() / "config.json").read_text("utf-8"))
        _assert_recorded(saved, filled[1:])
    if command == "demo" and code == 0:
        assert (
            places["tmp"] / (words[1].format(**places) if len(words) > 1 else "swinclf-demo")
        ).is_dir()


def _assert_recorded(saved, words):
    """Every flag of a training stands in its config.json, with its value, as a flag."""
    repeated = {}
    for place, word in enumerate(words):
        name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
        if not word.startswith("--") or name not in SETTINGS:
            continue
        if words[place + 1 : place + 2] == ["auto"]:  # chosen as if it was not given
            assert saved["sources"][name] == "auto", name
            assert saved[name] != "auto", name
            continue
        assert saved["sources"][name] == "flag", name
        if isinstance(saved[name], bool):
            assert saved[name] is not word.startswith("--no-"), name
        elif isinstance(saved[name], list):
            repeated.setdefault(name, []).append(words[place + 1])
            assert repeated[name] == saved[name][: len(repeated[name])]
        elif isinstance(saved[name], int | float):
            assert saved[name] == float(words[place + 1]), name
        else:
            assert saved[name] == words[place + 1], name


def test_every_command_has_cases():
    assert set(CASES) == set(_group().commands)


@pytest.mark.parametrize("command", sorted(CASES))
def test_every_flag_and_every_choice_is_in_some_case(command):
    cases = [words for _, words in CASES[command]]
    for spelling, choices in _options(_group().commands[command]):
        used = [words for words in cases if spelling in words]
        assert used, f"{command} {spelling} is run by no case"
        values = {words[words.index(spelling) + 1] for words in used if choices}
        assert values >= set(choices), f"{command} {spelling}: {set(choices) - values}"


@pytest.mark.parametrize("command", sorted(CASES))
def test_every_default_is_run(command):
    assert any(words in ((), ("{data}",), ("{picture}",)) for _, words in CASES[command])


@pytest.mark.parametrize(("code", "words"), GLOBAL)
def test_global_options(cli, code, words, tmp_path, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    monkeypatch.setenv("HOME", str(tmp_path))
    done = cli(*words)
    assert done.code == code
    assert done.out


def test_global_options_are_all_run():
    words = {word for _, one in GLOBAL for word in one}
    assert {spelling for spelling, _ in _options(_group())} <= words


def test_defaults_of_a_training_are_those_of_the_table(cli, dataset, tmp_path):
    done = cli("train", dataset, *SMALL)
    saved = json.loads((tmp_path / done.out.strip() / "config.json").read_text("utf-8"))
    for name, setting in SETTINGS.items():
        if saved["sources"][name] == "default":
            default = list(setting.default) if setting.default == () else setting.default
            assert saved[name] == default, name
        elif saved["sources"][name] == "auto" and setting.default is not None:
            assert name in ("compile", "device", "precision"), name
    given = {"data", "model", "pretrained", "img_size", "epochs"}
    assert {name for name, source in saved["sources"].items() if source == "flag"} == given


# --- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", sorted(CASES))
def test_help_shows_every_option_with_its_default(cli, command):
    done = cli(command, "--help")
    assert (done.code, done.err) == (0, "")
    entries = [" ".join(one.split()) for one in re.split(r"\n  (?=-)", done.out)[1:]]
    about = {entry.split()[0].replace("[no-]", ""): entry for entry in entries}
    shown = [one for one in _group().commands[command].params if not one.hidden]
    options = {one.opts[0]: one for one in shown if one.opts[0].startswith("-")}
    assert about.keys() == {*options} - {"--help"} | {"-h,"}
    for option, one in options.items():
        if not one.is_eager:
            assert re.search(r"\[default: \S", about[option]), option


@pytest.mark.parametrize("command", ["", *sorted(CASES)])
def test_help_fits_a_terminal_and_begins_with_examples(cli, command):
    text = cli(*command.split(), "--help").out
    lines = text.splitlines()
    assert len(lines) <= 100
    assert max(map(len, lines)) <= 80
    assert lines[4] == "Examples:"
    assert lines[5].startswith(f"  swinclf {command or 'demo'}")
    assert not re.search(r"<\w+>|\brange\b|Default:|\x1b", text), "plain types, one form of default"


def test_the_groups_of_train_are_those_of_the_table(cli):
    text = cli("train", "--help").out
    headings = re.findall(r"^([A-Z]\w+):$", text, re.MULTILINE)
    assert headings == ["Examples", "Options", *OptionGroup]


def test_help_of_train_says_the_tables_defaults(cli):
    text = " ".join(cli("train", "-h").out.split())
    for name, setting in SETTINGS.items():
        about = setting.metadata
        assert " ".join(about["text"].split()) in text, name
        if setting.default is None:
            assert f"[default: {' '.join(about['auto'].split())}]" in text, name
        elif isinstance(setting.default, bool):
            assert f"{about['text']} [default: {'on' if setting.default else 'off'}]" in text, name
        elif name != "data":
            assert f"[default: {setting.default or 'none'}]" in text or setting.default == 0, name


def test_help_has_colours_on_a_terminal_and_the_same_text(cli, monkeypatch):
    plain = cli("train", "--help").out
    monkeypatch.setattr("swinclf.cli.help._has_colours", lambda: True)
    monkeypatch.setattr("typer._click.utils.should_strip_ansi", lambda *_, **__: False)
    coloured = cli("train", "--help").out
    assert "\x1b[36m--resume RUN\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain


def test_help_lists_every_command(cli):
    done = cli("--help")
    for name, command in _group().commands.items():
        assert re.search(rf"^  {name} +\S", done.out, re.MULTILINE), name
        assert command.help
    bare = cli()
    assert bare.code == 2
    assert "Commands:" in bare.err


HEAVY = ("torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib", "numpy", "PIL")
HEAVY += ("onnxruntime", "huggingface_hub", "jinja2", "fastapi", "uvicorn")


def test_neither_help_nor_import_loads_anything_that_takes_time():
    code = f"""
import sys
import swinclf, swinclf.errors, swinclf.config, swinclf.run_folder
from swinclf.cli.app import main
for words in (["--help"], ["--version"], *([one, "--help"] for one in sys.argv[1:])):
    sys.argv = ["swinclf", *words]
    try:
        main()
    except SystemExit as ending:
        assert not ending.code, words
print(sorted({{*{HEAVY}, "typer"}} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *CASES],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "['typer']"  # typer, so that the test can fail


def test_help_and_version_have_a_short_form(cli):
    assert cli("help", "train").out == cli("train", "--help").out
    assert cli("help").out == cli("--help").out
    assert cli("-V").out == cli("--version").out


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("swinclf tr", {"train"}),
        ("swinclf train data --model swin_ti", {"swin_tiny_patch4_window7_224"}),
        ("swinclf train data --model e", {"embedded"}),
        ("swinclf check data --model vit_tiny", {"vit_tiny_patch16_224"}),
        ("swinclf train data --config t", {"textbook-cifar10"}),
        ("swinclf train data --augment t", {"trivial"}),
        ("swinclf train data --config ./", set()),  # the shell completes files
    ],
)
def test_the_shell_completes_names(cli, monkeypatch, line, some):
    monkeypatch.setenv("_SWINCLF_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    found = cli().out.split()
    last = line.split()[-1]
    assert some <= set(found)
    assert all(one.startswith(last) for one in found)
    assert bool(found) == bool(some)


def test_the_module_and_the_script_are_the_same_program(program):
    script = program("--version")
    module = subprocess.run(
        [sys.executable, "-m", "swinclf", "--version"], capture_output=True, text=True, check=True
    )
    assert script.out == module.stdout == f"swinclf {swinclf.__version__}\n"
    assert script.err == module.stderr == ""


# --- usage errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{", "line 1"),
        ("[1]", "list"),
        ('{"epoch": 3}', "did you mean 'epochs'"),
        ('{"epochs": "3"}', "'3'"),
        ('{"epochs": true}', "True"),
        ('{"lr": -1}', "-1.0"),
        (
            '{"lr": -1, "epochs": 0}',
            "lr is more than 0, and finite, not -1.0; epochs is",
        ),
    ],
)
def test_a_settings_file_that_makes_no_sense(cli, dataset, tmp_path, content, found):
    (tmp_path / "c.json").write_text(content)
    done = cli("train", dataset, "--config", tmp_path / "c.json")
    assert done.code == 2
    assert found in error_lines(done)[1]


@pytest.mark.parametrize(
    ("words", "expected", "found"),
    [
        (("train", "x", "--lr", "0"), "more than 0, and finite for --lr", "0.0"),
        (("train", "x", "--lr", "nan"), "more than 0, and finite for --lr", "nan"),
        (("train", "x", "--lr", "inf"), "more than 0, and finite for --lr", "inf"),
        (("train", "x", "--lr", "fast"), "a number for --lr", "fast"),
        (("train", "x", "--epochs", "many"), "a whole number for --epochs", "many"),
        (("train", "x", "--epochs=0"), "a number of at least 1 for --epochs", "0"),
        (("train", "x", "--val-split", "1.5"), "a number of at most 0.9 for --val-split", "1.5"),
        (("train", "x", "--fit", "big"), "one of 'crop', 'pad', 'squash' for --fit", "big"),
        (("train", "x", "--epoch", "3"), "an option of 'swinclf train'", "--epoch"),
        (("train", "x", "y"), "no more arguments for 'swinclf train'", "y"),
        (("train", "x", "--epochs"), "a value after --epochs", "none"),
        (("predict",), "INPUT... after 'swinclf predict'", "none"),
        (("trian", "x"), "a command of swinclf", "'trian'"),
        (("eval", "--split", "half"), "one of 'val', 'test', 'train', 'all' for --split", "half"),
        (("export", "--tolerance", "-1"), "a number of at least 0 for --tolerance", "-1"),
        (("export", "--format", "zip"), "one of 'onnx', 'timm', 'torch-export', ", "zip"),
        (("predict", "x", "--format", "xml"), "one of 'table', 'json', 'jsonl', 'csv' for ", "xml"),
        (("doctor", "x"), "no more arguments for 'swinclf doctor'", "x"),
        (("--frobnicate",), "an option of 'swinclf'", "--frobnicate"),
    ],
)
def test_wrong_usage_says_what_was_expected_and_found(cli, words, expected, found):
    done = cli(*words)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    said = error_lines(done)
    assert said[0].startswith(expected)
    assert said[1].startswith(found)
    hint = {"--epoch": "did you mean --epochs?", "trian": "did you mean swinclf train?"}
    assert said[2].startswith(next((hint[word] for word in words if word in hint), "swinclf "))


def test_help_says_that_a_rate_is_more_than_0(cli):
    about = " ".join(cli("train", "--help").out.split())
    assert "--lr FLOAT Peak rate, more than 0. [default: " in about


# --- errors -------------------------------------------------------------------------------------


def test_an_error_is_three_lines_and_debug_adds_the_traceback(cli):
    words = ("predict", "x.png", "--run", "nowhere")
    plain = cli(*words)
    assert plain.code == 1
    assert error_lines(plain)
    assert "Traceback" not in plain.err
    for place in range(len(words) + 1):
        shown = cli(*words[:place], "--debug", *words[place:])
        assert shown.code == 1
        assert "Traceback" in shown.err
        assert error_lines(shown) == error_lines(plain)


def test_a_defect_is_told_as_one(cli, monkeypatch):
    def fail(_):
        raise ZeroDivisionError("once\nand again")

    monkeypatch.setattr(predict_command, "find_model", fail)
    done = cli("predict", "x.png")
    assert done.code == 1
    expected, found, hint = error_lines(done)
    assert "bug in swinclf" in expected
    assert found == "ZeroDivisionError: once"
    assert "--debug" in hint


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (Interrupted(ExitCode.TERMINATED), 143, "interrupted\n"),
        (Interrupted(ExitCode.TERMINATED, ""), 143, "interrupted; nothing to resume yet\n"),
        (
            Interrupted(ExitCode.INTERRUPTED, "swinclf x"),
            130,
            "progress is saved, resume with: swinclf x",
        ),
        (typer.Exit(5), 5, ""),
    ],
)
def test_every_ending_has_its_exit_code(cli, monkeypatch, ending, code, said):
    def end(_):
        raise ending

    monkeypatch.setattr(predict_command, "find_model", end)
    done = cli("predict", "x.png")
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err


def test_names_in_errors_cannot_drive_the_terminal(cli):
    done = cli("predict", "x.png", "--run", "a\x1b[31mb\u202ec")
    assert "\x1b" not in done.err
    assert "\u202e" not in done.err
    assert r"a\x1b[31mb\u202ec" in done.err


# --- data on standard output, talk on standard error --------------------------------------------


def test_standard_output_carries_data_only(cli, dataset, tmp_path):
    done = cli("train", dataset, *SMALL_FLAGS)
    assert done.out == "runs/colours-1\n"
    assert (tmp_path / done.out.strip() / "metrics.json").is_file()
    for word in ("3 classes", "epoch 1/2", "epoch 2/2", "val loss", "accuracy"):
        assert word in done.err
    for command in ("swinclf predict", "swinclf eval", "swinclf export"):
        assert f"{command} " in done.err
    assert "\x1b" not in done.err, "no colours and no bars on a pipe"
    assert "95 % interval" in done.err
    assert "these images also selected the epoch and the head: accuracy on new images" in done.err
    assert "or use other images:\n  swinclf eval OTHER --run runs/colours-1" in done.err
    scored = cli("eval", "--format", "json")
    assert json.loads(scored.out)["split"] == "val"
    assert "results in" in scored.err
    unselected = cli("train", dataset, *SMALL_FLAGS, "--val-split", 0)
    assert unselected.code == 0
    assert "selected the epoch" not in unselected.err


def test_long_work_says_on_a_pipe_that_it_goes_on(cli, dataset, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    done = cli("train", dataset, *SMALL_FLAGS)
    assert re.search(r"^epoch 1/2: \d+/\d+ images, [\d,.]+ images/s$", done.err, re.M)
    left = r"^epoch 2/2: \d+/\d+ images, [\d,.]+ images/s, [\d.]+ s left$"
    assert re.search(left, done.err, re.M), "of all epochs, once a whole epoch has been measured"
    assert re.search(r"^scoring val: \d+/\d+ images", done.err, re.M)


class _Terminal(io.TextIOWrapper):
    """A pseudo-terminal as standard error, and everything that was written to it."""

    def __init__(self) -> None:
        reader, writer = pty.openpty()
        super().__init__(open(writer, "wb", buffering=0), "utf-8", write_through=True)  # noqa: PTH123, SIM115
        self._reader, self._seen = reader, bytearray()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while some := os.read(self._reader, 65536):
                self._seen += some
        except OSError:  # the writer is closed
            pass

    def seen(self) -> str:
        self.close()
        self._thread.join()
        os.close(self._reader)
        return self._seen.decode("utf-8")


@pytest.fixture
def on_terminal(monkeypatch, tmp_path):
    """Runs a command with a terminal as standard error: what was shown there."""
    if pty is None:
        pytest.skip("this system has no pseudo-terminals")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(terminal, "BAR_AFTER_S", 0.0)
    monkeypatch.chdir(tmp_path)

    def run(*words):
        from swinclf.cli.app import main

        screen = _Terminal()
        monkeypatch.setattr(sys, "argv", ["swinclf", *map(str, words)])
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
        monkeypatch.setattr(sys, "stderr", screen)
        with pytest.raises(SystemExit):
            main()
        return screen.seen()

    return run


def test_a_terminal_shows_a_bar_and_a_box(on_terminal, dataset):
    seen = on_terminal("train", dataset, *SMALL_FLAGS)
    assert re.search(r"━+.*\d+/30.*images/s.*[\d.]+ s left", seen), "rate and time left"
    assert "\x1b[" in seen
    assert "╭" in seen
    assert "╰" in seen
    assert "swinclf predict IMAGE" in seen
    assert re.search(r"epoch 1/2  train loss", seen)
    assert re.search(r"2 epochs in [\d.]+ s; best: epoch \d, val loss", seen)


def test_no_color_is_honoured(on_terminal, dataset, monkeypatch):
    coloured = r"\x1b\[[\d;]*(3[0-7]|38;|9[0-7])[\d;]*m"
    assert re.search(coloured, on_terminal("train", "nowhere"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(coloured, on_terminal("train", dataset, *SMALL_FLAGS))
    assert not re.search(coloured, on_terminal("train", "nowhere"))


def test_in_ci_a_terminal_gets_plain_lines(on_terminal, dataset, monkeypatch):
    monkeypatch.setenv("CI", "true")
    seen = on_terminal("train", dataset, *SMALL_FLAGS)
    assert "━" not in seen
    assert "epoch 2/2  train loss" in seen


def test_a_reader_that_goes_away_is_no_error():
    with subprocess.Popen(
        [sys.executable, "-m", "swinclf", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(60) == 0
    assert err == b""


def test_a_csv_on_a_pipe_is_whole(cli, trained):
    done = cli("predict", trained.data, "--run", trained.path, "--format", "csv")
    assert done.code == 0
    assert done.err == ""
    assert done.out.count("\n") == 37
    assert Path(done.out.splitlines()[1].partition(",")[0]).is_file()
    assert read_rows(trained.path / "split.csv")
