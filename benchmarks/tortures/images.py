"""Predicts every file of folders, whatever it is: an answer or a named refusal, in bounds.

Each file goes through the program twice: alone, with its time and the memory of all the program's
processes measured, and in one stream with all the others, read by several threads. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import swinclf
from tortures._small import SETTINGS, write_dataset

HANGS_AFTER_S = 60.0
LONGEST_S = 10.0
MOST_MB = 2000.0
PREDICT = (sys.executable, "-m", "swinclf", "predict", "-", "--format", "jsonl")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which files."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of files of any kind")


def torture(options: argparse.Namespace) -> dict[str, Any]:
    """Predicts every file alone and all in one stream."""
    files = [
        f"{where}{os.sep}{name}"
        for folder in options.folders
        for where, _, names in os.walk(folder.resolve())
        for name in sorted(names)
        if "\n" not in where + name and not name.endswith("\r")  # a path is a line of stdin
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = _train(Path(folder))
        alone, stream = _all_alone(files, run), _stream(files, run)
    wrong = [*alone["wrong_files"], *stream.pop("wrong_files")]
    return {"files": len(files), **alone, **stream, "wrong_files": wrong, "wrong": len(wrong)}


def _train(folder: Path) -> Path:
    data = write_dataset(folder / "colours")
    return swinclf.train(data, epochs=1, out=str(folder / "runs"), **SETTINGS).folder.path


def _all_alone(files: Sequence[str], run: Path) -> dict[str, Any]:
    """Every file by itself: counts of answers and refusals, the slowest and the largest."""
    refusals: Counter[str] = Counter()
    slowest, largest, answers = (0.0, ""), (0.0, ""), 0
    wrong: list[str] = []
    program = _Program(run)
    program.ask(os.devnull)  # starts it
    for file in files:
        started = time.monotonic()
        program.reset_peak()
        answer = program.ask(file)
        seconds, peak = time.monotonic() - started, program.peak_mb()
        slowest, largest = max(slowest, (seconds, file)), max(largest, (peak, file))
        if "label" in answer:
            answers += 1
        elif answer.get("error"):
            refusals[_kind(answer["error"])] += 1
        else:
            wrong.append(f"{file}: {program.last_words()}")
            program = _Program(run)
        if seconds > LONGEST_S or peak > MOST_MB:
            wrong.append(f"{file}: {seconds:.1f} s, {peak:.0f} MB")
    wrong += [f"said: {line}" for line in program.end()]
    return {
        "answers": answers,
        "refused": sum(refusals.values()),
        "reasons": dict(refusals.most_common()),
        "slowest": [round(slowest[0], 2), slowest[1]],
        "peak_mb_alone": [round(largest[0]), largest[1]],
        "wrong_files": wrong,
    }


def _stream(files: Sequence[str], run: Path) -> dict[str, Any]:
    """All files in one go."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - gone when nobody holds it
    process = subprocess.Popen(
        [*PREDICT, "--run", str(run), "--workers", "2", "--output", os.devnull],
        stdin=subprocess.PIPE,
        stderr=errors,
    )
    assert process.stdin
    started, peak = time.monotonic(), 0.0
    for file in files:
        process.stdin.write(os.fsencode(file) + b"\n")
        peak = max(peak, _peak_mb(process.pid))
    process.stdin.close()
    while process.poll() is None:
        peak = max(peak, _peak_mb(process.pid))
        time.sleep(0.02)
    wrong = [f"stream: {line}" for line in _said(errors)]
    if process.returncode not in (0, 3):
        wrong.append(f"stream: exit code {process.returncode}")
    return {
        "stream_seconds": round(time.monotonic() - started, 1),
        "peak_mb_stream": round(peak),
        "wrong_files": wrong,
    }


class _Program:
    """`swinclf predict -`, asked for one file after the other."""

    def __init__(self, run: Path) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*PREDICT, "--run", str(run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )

    def ask(self, file: str) -> dict[str, Any]:
        """The answer; empty where there is none."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(os.fsencode(file) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return {}
        if not select.select([self._process.stdout], [], [], HANGS_AFTER_S)[0]:
            self._process.kill()
            return {}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {}

    def reset_peak(self) -> None:
        """Starts the measurement of memory again."""
        for pid in _tree(self._process.pid):
            with suppress(OSError):  # it has gone
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Most memory of the program since then, MB."""
        return _peak_mb(self._process.pid)

    def last_words(self) -> str:
        """How a program that gives no answers ended."""
        code = self._process.wait()
        return " ".join([f"exit code {code}", *_said(self._errors)[-3:]])

    def end(self) -> list[str]:
        """Lets the program finish; what it has said on standard error."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        return _said(self._errors)


def _said(errors: IO[bytes]) -> list[str]:
    """The lines on a standard error that have no place there."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    return [line for line in lines if not line.endswith("inputs could not be read")]


def _kind(reason: str) -> str:
    """A reason without its numbers and offsets."""
    return re.sub(r"\d[\d,.]*", "N", reason)[:60]


def _tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has gone
            for child in children.read_text().split():
                yield from _tree(int(child))


def _peak_mb(pid: int) -> float:
    """The sum of the most that each process of a tree has held, MB."""
    total = 0
    for one in _tree(pid):
        try:
            status = Path(f"/proc/{one}/status").read_text()
        except OSError:
            continue
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        total += int(found[1]) if found else 0
    return total * 1024 / 1e6
