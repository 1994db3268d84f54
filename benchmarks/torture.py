"""Tries to break swinclf, for as long as it is let, and prints what came of it: JSON on stdout.

Every part is a module of tortures/ with two functions, `add_options(parser)` and
`torture(options) -> dict` of figures; a part that finds anything wrong has a figure `wrong`
above 0, and the program then ends with 1. A small form of `fuzz` is a test.

    python benchmarks/torture.py corruption --flips 1000 --cuts 200 --seed 0
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

PARTS = sorted(
    path.stem
    for path in (Path(__file__).parent / "tortures").glob("*.py")
    if not path.stem.startswith("_")
)


def main() -> int:
    """Runs the part that is named and prints its figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="part", required=True, metavar="PART")
    modules = {name: importlib.import_module(f"tortures.{name}") for name in PARTS}
    for name, module in modules.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("--seed", type=int, default=0, help="of everything that is random")
        module.add_options(command)
    options = parser.parse_args()
    started = time.monotonic()
    figures = modules[options.part].torture(options)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"part": options.part, "seed": options.seed, **figures, "seconds": seconds}))
    return int(bool(figures.get("wrong")))


if __name__ == "__main__":
    sys.exit(main())
