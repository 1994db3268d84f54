"""Whether `--reject` keeps unknown classes out: JSON lines on stdout.

One class after the other is left out of a folder of photographs, the others are learned by a head
on a frozen network, and photographs that were held back are shown: of the classes
that it learned, and of the one that it did not.

    python benchmarks/reject.py PHOTOS --model embedded
    python benchmarks/reject.py PHOTOS --leave-out rose --precision 0.8
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import swinclf
from swinclf.commands.evaluate import evaluate
from swinclf.data.folder import scan_folder
from swinclf.errors import RunError

PRECISIONS = (0.7, 0.8, 0.9, 0.95)
MODEL = "embedded"


def write_folders(photos: Path, root: Path, out: str, held: int) -> tuple[Path, Path]:
    """Copy all but a class to learn from, and `held` photographs of each to be shown."""
    index = scan_folder(photos)
    for label in index.classes:
        paths = [image.path for image in index.images if image.label == label]
        random.Random(3).shuffle(paths)
        parts = {"shown": paths[:held], "learned": [] if label == out else paths[held:]}
        for part, files in parts.items():
            for file in files:
                target = root / part / label / Path(file).name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(photos / file, target)
    return root / "learned", root / "shown"


def measure(
    photos: Path,
    out: str,
    held: int,
    *,
    model: str,
    pretrained: bool,
    precisions: Sequence[float],
    cache: Path,
) -> Iterable[dict[str, object]]:
    """Learn all classes but one, and say what is answered at each precision."""
    with tempfile.TemporaryDirectory() as folder:
        learned, shown = write_folders(photos, Path(folder), out, held)
        os.environ["SWINCLF_CACHE_DIR"] = str(cache)
        done = swinclf.train(
            learned,
            model=model,
            pretrained=pretrained,
            freeze_layers=True,
            out=str(Path(folder) / "runs"),
        )
        for precision in precisions:
            try:
                seen = evaluate(done.folder.model, shown, reject=precision)
            except RunError as error:
                yield {"left_out": out, "precision": precision, "error": str(error)}
                continue
            assert seen.rejection is not None
            numbers = asdict(seen.rejection)
            rounded = {
                name: [round(one, 3) for one in value]
                if isinstance(value, tuple)
                else round(value, 3)
                for name, value in numbers.items()
            }
            yield {"left_out": out, "accuracy": round(seen.metrics.accuracy, 3), **rounded}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="a folder of class folders")
    parser.add_argument("--leave-out", action="append", help="a class; each in turn if left out")
    parser.add_argument("--precision", action="append", type=float, help="as of --reject")
    parser.add_argument("--held", type=int, default=200, help="photographs of a class to show")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--no-pretrained", action="store_true", help="start from random weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:  # features, of use to the next left out
        for out in args.leave_out or scan_folder(args.photos).classes:
            for row in measure(
                args.photos,
                out,
                args.held,
                model=args.model,
                pretrained=not args.no_pretrained,
                precisions=args.precision or PRECISIONS,
                cache=Path(cache),
            ):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
