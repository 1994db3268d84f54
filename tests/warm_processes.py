"""Processes of the program that start at once: forked from a server that has imported it.

Importing torch and timm takes seconds, longer than what most tests do in a process. On systems
without such a server, each process imports them itself.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import runpy
import sys
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image

METHODS = multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
CONTEXT.set_forkserver_preload(["swinclf.commands.train", "swinclf.commands.predict", "timm"])
PLOTS = ("draw_confusion_matrix", "draw_curves")  # most of the time of a small run


def draw_pixel(_what: object, path: Path, **_options: object) -> None:
    """Draw a plot that takes no time."""
    Image.new("RGB", (1, 1)).save(path, "PNG")


class Streams(NamedTuple):
    """The files of a process's standard streams."""

    stdin: Path
    stdout: Path
    stderr: Path


class WarmProcess:
    """The program in a process of its own; `subprocess.Popen` for files instead of pipes.

    `script` is a program to run instead, with the same words.
    """

    def __init__(
        self,
        *words: object,
        folder: Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        script: Path | None = None,
    ) -> None:
        place = folder / f".{uuid.uuid4().hex}"
        self._streams = Streams(*(place.with_suffix(f".{name}") for name in Streams._fields))
        for path, content in zip(self._streams, (stdin, b"", b""), strict=True):
            path.write_bytes(content)
        variables = {**os.environ, **(env or {})}
        given = list(map(str, words)), folder, variables, self._streams, script
        self._process = CONTEXT.Process(target=_run, args=given)
        self._process.start()

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._streams.stderr.read_text("utf-8", "surrogateescape")

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self._streams.stdout.read_text("utf-8", "surrogateescape")

    def wait_for(self, start: str, timeout: float = 120) -> None:
        """Wait for a line on standard error that starts with some words."""
        deadline = time.monotonic() + timeout
        while not any(line.startswith(start) for line in self.stderr.splitlines()):
            assert self._process.is_alive(), self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self._process.pid
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Wait for its end; return the exit code, for a signal as of `subprocess`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(self.stderr)
        return self._process.exitcode

    def kill(self) -> None:
        """End the process at once, unless it has ended."""
        self._process.kill()
        self._process.join()


def _run(
    words: list[str],
    folder: Path,
    variables: Mapping[str, str],
    streams: Streams,
    script: Path | None,
) -> None:
    """Run the program as if this process had been started for it."""
    for number, path in enumerate(streams):
        handle = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    from swinclf.inference import results

    warnings.simplefilter("error")
    os.fsync = os.fstat  # as in conftest.py
    for name in PLOTS:
        setattr(results, name, draw_pixel)
    sys.argv = [str(script or "swinclf"), *words]
    if script:
        runpy.run_path(str(script), run_name="__main__")
        return
    from swinclf.cli.app import main

    main()
