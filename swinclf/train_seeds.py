"""compare --seeds: train runs again with other seeds, to compare their settings."""

from __future__ import annotations

from pathlib import Path

from swinclf.commands.compare import read_config, recipe_of
from swinclf.commands.runs import RunState, list_runs
from swinclf.commands.train import train
from swinclf.errors import ConfigError, RunError
from swinclf.latest_run import follow_latest
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import RunFolder
from swinclf.settings import gather_settings


def train_seeds(run: Path, count: int, *, report: Reporter = SILENT) -> list[Path]:
    """Return runs with the same settings and `count` different seeds, 2 or more; itself first.

    Runs that are there already are used; the others are trained, with the smallest seeds, as
    NAME-seed1 and so on.

    Raises:
        ConfigError: If `count` is less than 2.
        RunError: If the folder is no run.
        SwinclfError: If a training fails.
    """
    if count < 2:
        raise ConfigError(
            "2 or more for --seeds", found=str(count), hint="swinclf compare RUN RUN --seeds 3"
        )
    run = follow_latest(run)
    run = run.parent if run.is_file() else run  # a weights file in it
    if run.is_symlink() or not run.name:  # `latest`, or a dot
        run = run.resolve()
    config = read_config(run)
    if not config:
        raise RunError(
            f"the folder of a finished run at '{run}', to train it with other seeds",
            found="no config.json in it" if run.is_dir() else "no such folder",
            hint="swinclf runs",
        )
    by_seed = {int(config["seed"]): run}
    for other in list_runs(run.parent):
        found = read_config(other.path)
        if other.state is RunState.FINISHED and found and recipe_of(found) == recipe_of(config):
            by_seed.setdefault(int(found["seed"]), other.path)
    missing = (seed for seed in range(len(by_seed) + count) if seed not in by_seed)
    while len(by_seed) < count:
        seed = next(missing)
        flags = {"seed": seed, "name": f"{run.name}-seed{seed}", "out": str(run.parent)}
        report.note(f"training {flags['name']}")
        by_seed[seed] = train(gather_settings(flags, RunFolder(run).config), report=report).path
    return list(by_seed.values())[:count]
