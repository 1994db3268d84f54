"""Kills a save at each of its calls to the system (strace): the state before or after it loads."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from swinclf.errors import SwinclfError
from swinclf.files import remove_temporary_files
from swinclf.run_folder import RunFolder
from swinclf.training import checkpoint
from tortures._small import interrupted_run

CALLS = (
    *("openat", "write", "fsync", "close"),
    *("link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Nothing to choose: every call is tried."""
    parser.set_defaults(calls=CALLS)


def torture(options: argparse.Namespace) -> dict[str, Any]:
    """Saves once for every call that a save makes, and kills it there."""
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        run, state, fingerprint = interrupted_run(Path(folder))
        template = Path(shutil.copytree(run.path, Path(folder) / "template"))

        def save() -> None:
            state.step += 1
            checkpoint.save_checkpoint(run, state, fingerprint)

        before = _step_on_disk(run)
        log = Path(folder) / "strace"
        _traced(save, ["-e", f"trace={','.join(options.calls)}", "-o", str(log)])
        made = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(errors="replace"), re.M))
        assert _step_on_disk(run) == before + 1
        for call in options.calls:
            for number in range(1, made[call] + 1):
                shutil.rmtree(run.path)
                shutil.copytree(template, run.path)
                inject = f"inject={call}:signal=KILL:when={number}"
                status = _traced(save, ["-e", f"trace={call}", "-e", inject, "-o", os.devnull])
                counts["kills"] += status == -signal.SIGKILL
                try:
                    after = _step_on_disk(run)
                    counts["the state before"] += after == before
                    counts["the state after"] += after == before + 1
                    counts["wrong"] += after not in (before, before + 1)
                except SwinclfError as error:
                    print(call, number, error)
                    counts["wrong"] += 1
                remove_temporary_files(run.path)
                counts["wrong"] += any(path.suffix == ".tmp" for path in run.path.iterdir())
    return {"calls": dict(made), "wrong": 0, **counts}


def _step_on_disk(run: RunFolder) -> int:
    saved = checkpoint.read_checkpoint(run)
    assert not saved.newer_error, "the newest itself is whole"
    return int(saved.record["step"])


def _traced(work: Any, options: list[str]) -> int:
    """Does something in a process of its own, under strace from its first call; its exit status."""
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            work()
        finally:
            os._exit(0)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(
        ["strace", "-f", "-p", str(child), *options], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr
    assert "attached" in tracer.stderr.readline()
    os.kill(child, signal.SIGCONT)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tracer.communicate(timeout=30)
    return status
