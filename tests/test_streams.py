"""Redirected output is UTF-8 in any code page; a stream that fails is an error in plain words."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import SMALL_MODEL, error_lines, write_dataset
from onnx_files import card, write_onnx

from swinclf import terminal
from swinclf.cli import console, streams
from swinclf.cli.streams import ESCAPES, prepare_streams
from swinclf.errors import DataError
from swinclf.files import FileReplacement, write_text
from swinclf.terminal import ConsoleReporter

CLASSES = {"日本": (40, 60, 200), "caf\udce9": (40, 170, 60), "żółć": (200, 50, 40)}
SMALL = ("--model", SMALL_MODEL, "--no-pretrained", "--img-size", 32, "--epochs", 1)


@pytest.fixture
def far(tmp_path):
    """A dataset whose class names no western code page has; one is no valid UTF-8."""
    return write_dataset(tmp_path / "données", per_class=4, colours=CLASSES)


@pytest.fixture
def exported(tmp_path):
    """A model file for its classes that is opened without torch."""
    return write_onnx(tmp_path / "m.onnx", card(list(CLASSES)))


@pytest.fixture
def redirected(monkeypatch, tmp_path):
    """Runs the program with both streams in a code page: (exit code, their bytes)."""

    def run(*words, encoding):
        from swinclf.cli.app import main

        buffers = io.BytesIO(), io.BytesIO()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["swinclf", *map(str, words)])
        for name, buffer in zip(("stdout", "stderr"), buffers, strict=True):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding, write_through=True))
        with pytest.raises(SystemExit) as ending:
            main()
        out, err = (buffer.getvalue() for buffer in buffers)
        assert b"internal error" not in err
        return ending.value.code, out, err

    return run


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "table"])
def test_predictions_in_any_code_page(redirected, far, exported, encoding, kind):
    words = ("predict", far, "--run", exported, "--format", kind)
    code, out, _ = redirected(*words, encoding=encoding)
    assert code == 0
    text = out.decode("utf-8", "surrogateescape")
    if kind == "table":
        assert all(name in text for name in ("日本", r"caf\udce9", "żółć"))
        return
    rows = json.loads(text) if kind == "json" else csv.DictReader(io.StringIO(text))
    if kind == "jsonl":
        rows = map(json.loads, text.splitlines())
    found = [(row["path"], row["label"]) for row in rows]
    assert sorted(path for path, _ in found) == sorted(map(str, far.rglob("*.png")))
    assert all(Path(path).parent.name == label for path, label in found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("eval", "{data}", "--run", "{model}"), "日本"),
        (("eval", "{data}", "--run", "{model}", "--format", "json"), "日本"),
        (("check", "{data}"), "3 classes"),
        (("check", "{data}", "--format", "json"), "日本"),
        (("compare", "日本", "日本"), "日本"),
        (("models", "swin_tiny*", "--impl", "native"), "swin_tiny"),
        (("doctor",), "python"),
        (("train", "日本-gone"), "日本-gone"),
        (("--help",), "predict"),
    ],
)
def test_every_command_in_a_code_page(
    redirected, far, exported, tmp_path, monkeypatch, words, said
):
    monkeypatch.setattr("swinclf.commands.doctor.DECODE_SIZE", (400, 304))
    (tmp_path / "日本").mkdir()
    table = "path,label,predicted,probability\na.png,日本,日本,1\n"
    write_text(tmp_path / "日本" / "predictions.csv", table)
    filled = [word.format(data=far, model=exported) for word in words]
    code, out, err = redirected(*filled, encoding="cp1252")
    text = (out + err).decode("utf-8", "surrogateescape")
    assert said in text or json.dumps(said)[1:-1] in text
    assert code in (0, 1, 2, 3)
    assert bool(out) == (code in (0, 3))


def test_a_training_in_a_code_page(redirected, far, tmp_path):
    code, out, err = redirected("train", far, *SMALL, "--out", "läufe", encoding="ascii")
    assert code == 0, err
    assert (tmp_path / out.decode().strip() / "metrics.json").is_file()
    assert "läufe/" in err.decode()


@pytest.mark.skipif(os.name == "nt", reason="no such names on Windows")
def test_the_installed_program_in_a_code_page(program, far, exported):
    env = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": "C"}
    done = program("predict", far, "--run", exported, "--format", "csv", env=env)
    assert done.code == 0, done.err
    listed = {row["path"] for row in csv.DictReader(io.StringIO(done.out))}
    assert listed == set(map(str, far.rglob("*.png"))), "names are bytes, whatever the locale"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"\u65e5 caf\udce9 ... -> x"),
        ("cp1252", b"\\u65e5 caf\\udce9 \x85 -> \xd7"),
        ("utf-8", "日 caf\\udce9 … → ×".encode()),
    ],
)
def test_a_terminal_shows_what_it_can(monkeypatch, encoding, shown):
    buffer = io.BytesIO()

    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdout", Terminal(buffer, encoding, write_through=True))
    prepare_streams()
    assert sys.stdout.errors == ESCAPES
    assert sys.stdout.encoding == encoding
    sys.stdout.write("日 caf\udce9 … → ×")
    assert buffer.getvalue() == shown


# Streams that fail


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("predict", "{data}", "--run", "{model}")])
def test_a_full_disk_under_standard_output(far, exported, words):
    filled = [word.format(data=far, model=exported) for word in words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "swinclf", *filled],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[1] == (
        "found: cannot write to standard output: No space left on device"
    )
    assert len(done.stderr.splitlines()) == 3


class _Failing(io.TextIOWrapper):
    """A stream on which every write fails."""

    def __init__(self, error: OSError) -> None:
        super().__init__(io.BytesIO(), "utf-8")
        self._error = error

    def write(self, _text: str) -> int:
        raise self._error


@pytest.mark.parametrize(
    "words", [("--version",), ("--help",), ("models", "vit_tiny*", "--impl", "native")]
)
def test_standard_output_that_fails(monkeypatch, capsys, words):
    from swinclf.cli.app import main

    monkeypatch.setattr(sys, "argv", ["swinclf", *words])
    monkeypatch.setattr(sys, "stdout", _Failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 1
    assert "cannot write to standard output: Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [("--version",), ("--help",), ("models", "vit_tiny*", "--impl", "native")]
)
def test_a_reader_that_has_gone_is_no_error(monkeypatch, capsys, words):
    _write_to_nobody(monkeypatch, capsys, words)


def test_a_reader_of_predictions_that_has_gone_leaves_no_thread(monkeypatch, capsys, trained):
    """One that computes when Python ends would abort the process."""
    words = ("predict", str(trained.data), "--run", str(trained.path), "--format", "jsonl")
    _write_to_nobody(monkeypatch, capsys, words)
    assert not [one.name for one in threading.enumerate() if one.name == "swinclf-reader"]


def _write_to_nobody(monkeypatch, capsys, words):
    from swinclf.cli.app import main

    monkeypatch.setattr(sys, "argv", ["swinclf", *words])
    monkeypatch.setattr(sys, "stdout", _Failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_log_that_cannot_be_written_stops_no_work(monkeypatch, number):
    monkeypatch.setattr(sys, "stderr", _Failing(OSError(number, "refused")))
    reporter = ConsoleReporter()
    reporter.note("something")
    reporter.warn("something")
    console.print_line("something")
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    with reporter.track("work", 2) as advance:
        advance(1)


def test_streams_that_are_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    prepare_streams()
    console.print_line("nobody hears it")
    streams.write_data("x")
    with pytest.raises(streams.OutputError, match="Bad file descriptor"):
        streams.flush_data()
    sys.stdout.close()
    sys.stderr.close()


# Files that are replaced


def left_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.skipif(os.name == "nt", reason="no such signals on Windows")
def test_an_interrupted_prediction_leaves_the_file_before_it(far, exported, tmp_path):
    output = tmp_path / "answers.csv"
    output.write_text("the answers before", "utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "swinclf", "predict", "-", "--run", exported, "--output", output],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    listed = [os.fsencode(path) for path in far.rglob("*.png")]
    process.stdin.write(b"\n".join(listed) + b"\n")
    process.stdin.flush()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".answers.csv.*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.decode().splitlines()[-1] == "interrupted"  # a prediction is not resumed
    assert output.read_text("utf-8") == "the answers before"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()]
)
@pytest.mark.parametrize(
    "words",
    [
        ("predict", "{data}", "--run", "{model}", "--format", "json", "--output", "{out}/p.json"),
        ("eval", "{data}", "--run", "{model}", "--output", "{out}"),
        ("check", "{data}", "--output", "{out}/c.json"),
        ("check", "{data}", "--page", "{out}/c.html"),
        ("compare", "{scored}", "{scored}", "--output", "{out}/d.json"),
        ("inspect", "vit", "--img-size", "8", "--model-arg", "depth=1", "--model-arg")
        + ("patch_size=8", "--output", "{out}"),
    ],
)
def test_a_full_disk_or_an_interrupt_loses_no_file(
    cli, far, exported, tmp_path, monkeypatch, words, error
):
    out, scored = tmp_path / "out", tmp_path / "scored"
    for folder in (out, scored):
        folder.mkdir()
    names = ("p.json", "c.json", "c.html", "d.json", "predictions.csv", "metrics.json")
    for name in (*names, "patches.png", "report.html", "confusion_matrix.csv"):
        (out / name).write_text("before", "utf-8")
    (scored / "predictions.csv").write_text("path,label,predicted,probability\na,b,b,1\n", "utf-8")
    before = left_in(out)

    def fail(_handle):
        raise error

    monkeypatch.setattr("swinclf.files.os.fsync", fail)
    done = cli(*(w.format(data=far, model=exported, out=out, scored=scored) for w in words))
    monkeypatch.undo()
    assert left_in(out) == before
    if isinstance(error, OSError):
        assert done.code == 1
        assert "No space left on device" in error_lines(done)[1]
    else:
        assert done.code == 130


def test_a_disk_that_is_full_at_the_last_character_loses_no_file(
    cli, far, exported, tmp_path, monkeypatch
):
    put = FileReplacement.write

    def write(file, data):
        if data == b"\n]\n":
            raise DataError("room on the disk", found="none", hint="swinclf doctor")
        put(file, data)

    monkeypatch.setattr(FileReplacement, "write", write)
    output = tmp_path / "out" / "p.json"
    output.parent.mkdir()
    output.write_text("before", "utf-8")
    assert cli("predict", far, "--run", exported, "--output", output).code == 1
    assert {path.name: path.read_text("utf-8") for path in output.parent.iterdir()} == {
        "p.json": "before"
    }


def test_a_replaced_file_keeps_its_link_and_its_mode(tmp_path):
    real = tmp_path / "real"
    real.write_text("old", "utf-8")
    real.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to("real")
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text("utf-8") == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    write_text(tmp_path / ("é" * 125), "a long name")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_device_is_written_to_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with FileReplacement(tmp_path / "pipe") as file:
        file.write(b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    write_text(Path(os.devnull), "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd")
def test_a_pipe_of_the_shell_is_written_to():
    reader, writer = os.pipe()
    with FileReplacement(Path(f"/dev/fd/{writer}")) as file:
        file.write(b"through")
    os.close(writer)
    assert os.read(reader, 100) == b"through"
    os.close(reader)
