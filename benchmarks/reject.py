"""Whether `--reject` keeps unknown classes out: JSON lines on stdout.

One class after the other is left out of a folder of photographs, the others are learned by a head
on a frozen network, and photographs that were held back are shown: of the classes
that it learned, and of the one that it did not.

    python benchmarks/reject.py PHOTOS
    python benchmarks/reject.py PHOTOS --leave-out rose --precision 0.8
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import timing
from held_out import frozen_settings, own_cache

import swinclf
from swinclf.commands.evaluate import evaluate
from swinclf.data.folder import scan_folder
from swinclf.errors import RunError

PRECISIONS = (0.7, 0.8, 0.9, 0.95)


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
    precisions: Sequence[float],
) -> Iterable[dict[str, object]]:
    """Learn all classes but one, and say what is answered at each precision."""
    with tempfile.TemporaryDirectory() as folder:
        learned, shown = write_folders(photos, Path(folder), out, held)
        done = swinclf.train(learned, out=str(Path(folder) / "runs"), **frozen_settings(model))
        for precision in precisions:
            try:
                seen = evaluate(done.folder.model, shown, reject=precision)
            except RunError as error:
                yield {"left_out": out, "precision": precision, "error": str(error)}
                continue
            assert seen.rejection is not None
            yield {"left_out": out, "accuracy": seen.metrics.accuracy, **asdict(seen.rejection)}


def main() -> None:
    """Measure what was asked for."""
    parser = timing.plain_parser(__doc__, "a folder of class folders")
    parser.add_argument("--leave-out", action="append", help="a class; each in turn if left out")
    parser.add_argument("--precision", action="append", type=float, help="as of --reject")
    parser.add_argument("--held", type=int, default=200, help="photographs of a class to show")
    parser.add_argument("--model", default="embedded", help="another one has random weights")
    args = parser.parse_args()
    precisions = args.precision or PRECISIONS
    with own_cache():  # features, of use to the next left out
        for out in args.leave_out or scan_folder(args.photos).classes:
            for row in measure(
                args.photos, out, args.held, model=args.model, precisions=precisions
            ):
                timing.print_row(**row)


if __name__ == "__main__":
    main()
