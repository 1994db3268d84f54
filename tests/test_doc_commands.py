"""Every command in README.md and docs/ is run, or at least read by the program's own parser.

The rule: what stands after `$` in a `console` block and every `python` block is run, in order, on
small data. Commands elsewhere (`sh` blocks, inline code) may need large data, a network or a GPU,
or have a placeholder in capitals: of these the command and its options must exist, and the choices
and numbers be valid.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from command_lines import GROUP, parse, program_calls
from conftest import COLOURS, write_dataset, write_image
from PIL import Image
from PIL.ExifTags import Base as Tag
from sklearn.datasets import load_sample_image

import swinclf
from swinclf.cli.examples import EXAMPLES
from swinclf.demo import write_samples

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("data/*.md")])
    if path.name not in ("CHANGELOG.md", "cli.md")  # what was, and what is generated
}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHECK_FOUND_SOMETHING = 3


def blocks(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks in a language."""
    return [body for name, body in FENCED.findall(text) if name == language]


def inline_code(text: str) -> list[str]:
    """The code in running text and tables, each on one line."""
    found = re.findall(r"`([^`]+)`", FENCED.sub("", text))
    return [" ".join(code.split()) for code in found]


def code_lines(text: str) -> list[str]:
    """Every line that may hold a command: of blocks, without its prompt, and inline code."""
    lines = [line for _, body in FENCED.findall(text) for line in body.splitlines()]
    return [line.removeprefix("$ ") for line in lines] + inline_code(text)


PARSED = sorted(
    {
        (name, shlex.join(call))
        for name, text in DOCUMENTS.items()
        for line in code_lines(text)
        for call in program_calls(line)
    }
)


def test_calls_are_found():
    assert program_calls("find . | swinclf predict - --top-k 2 > x.csv  # why") == [
        ["predict", "-", "--top-k", "2"]
    ]
    assert program_calls("swinclf check 'a b'") == [["check", "a b"]]
    assert program_calls("swinclf/config.py") == []
    assert len(PARSED) > 60


def test_every_command_can_be_parsed():
    for _, call in PARSED:
        parse(shlex.split(call))


@pytest.mark.parametrize("command", sorted(EXAMPLES))
def test_every_example_can_be_parsed(command):
    assert {*GROUP.commands, "swinclf"} == set(EXAMPLES)
    assert 2 <= len(EXAMPLES[command]) <= 4
    for example, comment in EXAMPLES[command]:
        assert comment
        (call,) = program_calls(example)
        assert command in ("swinclf", call[0])
        parse(call)


@pytest.mark.parametrize("call", ["trian x", "train x --epoch 5", "predict a --format pdf"])
def test_wrong_commands_are_noticed(call):
    with pytest.raises(pytest.fail.Exception):
        parse(shlex.split(call))


# --- run -----------------------------------------------------------------------------------------


def console_commands(name: str) -> list[list[str]]:
    """The commands of a page that are run, in order."""
    lines = [line for body in blocks(DOCUMENTS[name], "console") for line in body.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ swinclf ")]


PAGES = [name for name in DOCUMENTS if name.startswith("docs/") and console_commands(name)]


@pytest.fixture
def workplace(tmp_path: Path, trained) -> Path:
    """A folder with the datasets, images and the run that the pages speak of."""
    write_dataset(tmp_path / "flowers")
    write_dataset(tmp_path / "other", per_class=4)
    for number, colour in enumerate(COLOURS.values()):
        write_image(tmp_path / "photos" / f"{number}.png", colour, seed=number + 50)
    write_image(tmp_path / "rose.jpg", (200, 50, 40), seed=7)
    own = shutil.ignore_patterns("eval-*")  # another test may have scored something there
    shutil.copytree(trained.path, tmp_path / "runs" / "flowers-1", ignore=own)
    return tmp_path


def faster(command: list[str]) -> list[str]:
    """The words that make a training of a page small."""
    return ["--img-size", "64"] if command[0] == "train" else []


def test_tour(cli, tmp_path):
    first, *rest = console_commands("README.md")
    assert first == ["demo"]
    write_samples(tmp_path / "swinclf-demo")  # all that the rest needs of it; it has its own test
    for folder in (tmp_path / "swinclf-demo" / "pictures").iterdir():
        for path in sorted(folder.iterdir())[8:]:
            path.unlink()
    for command in rest:
        done = cli(*command, *faster(command))
        assert done.code == 0, f"{command}: {done.err}"
    assert (tmp_path / "runs" / "tour" / "model.onnx").is_file()
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 13 * 8 + 1


def test_pages_with_a_console_are_found():
    assert {"docs/training.md", "docs/predict.md", "docs/check.md"} <= set(PAGES)


@pytest.mark.parametrize("name", sorted({*PAGES} - {"docs/inspect.md"}))  # in test_readme.py
def test_console_commands_run(cli, workplace, name):
    for command in console_commands(name):
        done = cli(*command, *faster(command))
        allowed = {0, CHECK_FOUND_SOMETHING} if command[0] == "check" else {0}
        assert done.code in allowed, f"{command}: {done.err}"
    assert (workplace / "runs").is_dir()


def python_block(name: str) -> dict[str, object]:
    """Run the Python of a page here; return its variables."""
    (block,) = blocks(DOCUMENTS[name], "python")
    small = "epochs=1, model='test_vit', pretrained=False, img_size=32"
    assert "epochs=20" in block
    block = block.replace("epochs=20", small)
    names: dict[str, object] = {}
    exec(compile(block, name, "exec"), names)
    return names


def test_python_of_the_readme_runs(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert python_block("README.md")["network"].num_classes == 5
    assert (workplace / "runs" / "flowers-2" / "report.html").is_file()


def test_python_of_the_page_about_python_runs(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert python_block("docs/python.md")["network"].num_classes == 5


def test_all_python_is_run():
    pages = {name for name, text in DOCUMENTS.items() if blocks(text, "python")}
    elsewhere = {"docs/distributed.md"}  # by `make test-ray`
    assert pages - elsewhere == {"README.md", "docs/exports.md", "docs/python.md", "docs/serve.md"}


PROGRAMS = dict(
    zip(
        ("onnx", "openvino", "torch-export", "litert", "timm"),
        blocks(DOCUMENTS["docs/exports.md"], "python"),
        strict=False,
    )
)
ELSEWHERE = {"litert"}  # by `make test-mobile`


@pytest.mark.parametrize("export_format", sorted(PROGRAMS.keys() - ELSEWHERE))
def test_programs_without_this_package_predict_and_reject_like_it(
    export_of, export_models, photos, tmp_path, monkeypatch, capsys, export_format
):
    """Each reads the export of a network that crops, photographs and their orientation included."""
    program = PROGRAMS[export_format]
    assert len(program.splitlines()) <= 25
    assert "swinclf." not in program.replace('"model-timm/swinclf.json"', "")
    turned = Image.fromarray(load_sample_image("flower.jpg")[100:220, 200:350])
    exif = Image.Exif()
    exif[Tag.Orientation] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    files = [*sorted(photos.iterdir()), tmp_path / "turned.jpg"]
    monkeypatch.chdir(export_of("vit", export_format).parent)
    monkeypatch.setattr(sys, "argv", ["program.py", *map(str, files)])
    monkeypatch.setitem(sys.modules, "openvino_telemetry", None)
    exec(compile(program, export_format, "exec"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    wanted = list(swinclf.load(export_models["vit"]).predict(files, reject=0.9))
    assert [row[:2] for row in rows] == [[one.path, one.label] for one in wanted]
    assert 0 < sum(one.label == "unknown" for one in wanted) < len(wanted)
    found = [float(row[2]) for row in rows]
    assert found == pytest.approx([one.probability for one in wanted], abs=1e-5)


def test_the_program_of_transformers_runs(export_of, photos, monkeypatch, capsys):
    pytest.importorskip("transformers")
    *_, program = blocks(DOCUMENTS["docs/exports.md"], "python")
    monkeypatch.chdir(export_of("vit", "timm").parent)
    file = sorted(photos.iterdir())[0]
    exec(compile(program.replace("rose.jpg", str(file)), "transformers", "exec"), {})
    assert "'label': " in capsys.readouterr().out


# --- other programs ------------------------------------------------------------------------------

CODE = [(name, line) for name, text in DOCUMENTS.items() for line in code_lines(text)]
BENCHMARKS = sorted({(name, line) for name, line in CODE if "python benchmarks/" in line})


def test_benchmarks_have_the_options_that_are_named():
    assert BENCHMARKS
    folder = ROOT / "benchmarks"
    shared = [folder / "timing.py", folder / "photos.py", *folder.glob("tortures/*.py")]
    common = "".join(path.read_text(encoding="utf-8") for path in shared)
    for name, line in BENCHMARKS:
        script, *words = shlex.split(line.partition("python ")[2])
        text = common + (ROOT / script).read_text(encoding="utf-8")
        unknown = [word for word in words if word[:2] == "--" and f'"{word}"' not in text]
        assert unknown == [], f"{name}: {line}"


def test_targets_of_make_and_files_of_tests_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {match[1] for _, line in CODE if (match := re.match(r"make ([\w-]+)", line))}
    assert targets >= {"demo", "test", "check", "docs", "bench"}
    assert targets <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    files = {word for _, line in CODE for word in re.findall(r"(?:tests|benchmarks)/\w+\.py", line)}
    assert files
    assert [file for file in sorted(files) if not (ROOT / file).is_file()] == []


def test_options_in_running_text_exist():
    known = {
        spelling
        for command in GROUP.commands.values()
        for one in command.params
        for spelling in (*one.opts, *one.secondary_opts)
    }
    known |= {"--data-path"}  # of older scripts, see swinclf/cli/legacy.py
    benchmarks = "".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("benchmarks/**/*.py")
    )
    unknown = {
        (name, option)
        for name, text in DOCUMENTS.items()
        for code in inline_code(text)
        for option in re.findall(r"^--[a-z][\w-]*", code)
        if option.replace("_", "-") not in known and f'"{option}"' not in benchmarks
    }
    assert unknown == set()
