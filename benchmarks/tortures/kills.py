"""Kills trainings at random moments, resumes them, and compares them with undisturbed ones."""

from __future__ import annotations

import argparse
import csv
import importlib
import math
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

import swinclf
from swinclf.commands.train import train
from swinclf.inference import results
from swinclf.pipeline.resume import resume_settings
from swinclf.run_folder import RunFolder
from swinclf.training import checkpoint
from tortures._small import SETTINGS, write_dataset

REGIMES: dict[str, dict[str, Any]] = {
    "head": {"freeze_layers": True, "epochs": 40},
    "part": {"freeze_stages": 2, "epochs": 6},
    "full": {"freeze_layers": False, "epochs": 5},
}
TIMED = ("seconds", "images_per_second")
KILLS = 2


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many runs."""
    parser.add_argument("--runs", type=int, default=100, help="runs, each killed twice")


def torture(options: argparse.Namespace) -> dict[str, Any]:
    """Runs, kills, resumes and compares."""
    rng = np.random.default_rng(options.seed)
    counts: Counter[str] = Counter()
    torch.set_num_threads(1)  # a child of a process with threads of its own would wait for them
    checkpoint.SAVE_EVERY_S = 0.0  # as often as saving may be: a tenth of the time
    # Without the figures, which take most of the time.
    undrawn = patch.multiple(
        results, draw_confusion_matrix=_draw_nothing, draw_curves=_draw_nothing
    )
    importlib.import_module("timm")  # once, here, and not in every child
    with tempfile.TemporaryDirectory() as folder, undrawn:
        data = write_dataset(Path(folder) / "colours")
        out = Path(folder) / "runs"
        _in_child(lambda: _begin(data, out, "base", {"epochs": 2}))
        begin: dict[str, Callable[[str], None]] = {}
        seconds: dict[str, float] = {}
        begun: dict[str, float] = {}
        for name, changes in REGIMES.items():
            settings = {**changes, "weights": str(out / "base"), "pretrained": True}
            begin[name] = partial(_begin, data, out, settings=settings)
            started = time.monotonic()
            assert _in_child(partial(begin[name], name)) == 0
            seconds[name] = time.monotonic() - started
            begun[name] = time.time() - (out / name / "config.json").stat().st_mtime
        for number in range(options.runs):
            regime = list(REGIMES)[number % len(REGIMES)]
            run = out / f"{regime}-{number}"
            if not _kill_and_go_on(run, begin[regime], regime, seconds, begun, rng, counts):
                counts["could not go on"] += 1
            same = _is_done(run) and _same(out / regime, run)
            counts["identical"] += same
            if not same:
                print(f"{run.name} differs, or did not end", file=sys.stderr)
            elif number % 10 == 9:
                print(dict(counts), file=sys.stderr)
        strays = list(out.rglob(".*"))
    wrong = options.runs - counts["identical"] + len(strays)
    return {"runs": options.runs, **counts, "strays": len(strays), "wrong": wrong}


def _kill_and_go_on(
    run: Path,
    begin: Callable[[str], None],
    regime: str,
    seconds: dict[str, float],
    begun: Mapping[str, float],
    rng: np.random.Generator,
    counts: Counter[str],
) -> bool:
    """One run, killed exactly `KILLS` times; False if it could not go on."""
    killed = 0
    while not run.is_dir() or not _is_done(run) or killed < KILLS:
        if run.is_dir() and _is_done(run):  # it was quicker than expected: all over again
            shutil.rmtree(run)
            killed = 0
            counts["too quick"] += 1
        kill_after, since = None, None
        if killed < KILLS:
            kill_after = float(rng.uniform(0, seconds[regime] * (0.5 if killed else 0.9)))
            # Much of a short run is over before its folder is there: three kills of four come
            # after that, at any moment from then to the end.
            if not run.is_dir() and rng.random() < 0.75:
                kill_after, since = float(rng.uniform(0, begun[regime])), run
        workers = int(rng.choice([0, 2]))
        started = time.monotonic()
        work = partial(_go_on, run, workers) if run.is_dir() else partial(begin, run.name)
        code = _in_child(work, kill_after=kill_after, since=since)
        if code == -signal.SIGKILL:
            killed += 1
            counts["kills"] += 1
            counts["kills before there was a run"] += not run.is_dir()
        elif code:
            return False
        else:
            seconds[regime] = min(seconds[regime], max(0.2, time.monotonic() - started))
    return True


def _begin(data: Path, out: Path, name: str, settings: Mapping[str, Any]) -> None:
    swinclf.train(data, out=str(out), name=name, **{**SETTINGS, **settings})


def _go_on(run: Path, workers: int) -> None:
    folder = RunFolder(run)
    train(resume_settings(folder, {"workers": workers}), resume=folder)


def _in_child(
    work: Callable[[], None], *, kill_after: float | None = None, since: Path | None = None
) -> int:
    """Does something in a process of its own, which starts in no time.

    Args:
        work: What to do.
        kill_after: Kills it after so many seconds.
        since: These are counted from when this folder is there.

    Returns:
        Its exit status; -9 where it was killed.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    if kill_after is not None:
        until = math.inf if since else time.monotonic() + kill_after
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            if until == math.inf and since is not None and since.is_dir():
                until = time.monotonic() + kill_after
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _draw_nothing(_: object, path: Path, **_options: object) -> None:
    Image.new("RGB", (1, 1)).save(path, "PNG")


def _is_done(run: Path) -> bool:
    return (run / "metrics.json").is_file() and not (run / "last.ckpt").exists()


def _same(one: Path, other: Path) -> bool:
    """Whether two runs came out the same, bit for bit, but for the time they took."""
    weights, others = (load_file(path / "model.safetensors") for path in (one, other))
    return (
        weights.keys() == others.keys()
        and all(weights[name].tobytes() == others[name].tobytes() for name in weights)
        and _history(one) == _history(other)
        and all(
            (one / name).read_bytes() == (other / name).read_bytes()
            for name in ("metrics.json", "predictions.csv", "split.csv", "class_indices.json")
        )
    )


def _history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in TIMED}
            for row in csv.DictReader(file)
        ]
