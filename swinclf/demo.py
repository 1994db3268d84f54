"""demo: train, evaluate, predict and export on digits and photographs, offline, by the public API.

The images come with dependencies: handwritten digits and two photographs with scikit-learn, one
photograph with matplotlib. NOTICE has their authors and licences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from swinclf.api import Classifier, load, train
from swinclf.commands.train import Run
from swinclf.config import TrainOptions
from swinclf.errors import ExportError, RunError
from swinclf.metrics import Metrics
from swinclf.reporter import Reporter, format_percent
from swinclf.run_folder import next_free_folder
from swinclf.settings import command_of, gather_settings
from swinclf.terminal import wrapped

DIGIT_PX = 32  # the digits are 8 x 8 px, enlarged for the report
DIGITS_PER_CLASS = 60  # of about 180
NEW_DIGITS = (2, 5, 8)  # the next image of each is not in the dataset, but predicted
TILES = {"palace": (8, 5), "flower": (8, 5), "portrait": (5, 8)}  # columns, rows
TILES_PER_CLASS = 24  # of 40: those of low contrast are sky or background
SETTINGS: TrainOptions = {
    "model": "embedded",
    "img_size": 96,
    "crop_pct": 1.0,  # a digit reaches the edges of its image
}


def demo(parent: Path, *, report: Reporter, say: Callable[[str], None]) -> Run:
    """Create a dataset, train, evaluate, predict and export, and explain each step.

    The dataset and the run are created in `parent`. `say` prints lines.

    Raises:
        SwinclfError: If it fails.
    """
    data, new = write_samples(parent)
    options: TrainOptions = {"out": str(parent / "runs"), **SETTINGS}
    command = command_of(gather_settings({"data": str(data), **options}))
    say(_description(data))
    say(
        "2. Training: the network that comes with this package is pretrained on photographs and\n"
        "   frozen; a linear classifier on its features is trained. The command is\n"
        "   " + command.replace(" --img-size", " \\\n     --img-size")
    )
    run = train(data, report=report, **options)
    folder = run.path
    say("\n" + wrapped("   " + accuracy_text(run.metrics)) + "\n")
    classifier = load(folder)
    again = classifier.evaluate(output=next_free_folder(folder, "eval"))
    accuracy = format_percent(again.accuracy)
    say(
        f"3. Evaluated the saved model, as `swinclf eval` does: accuracy {accuracy}.\n\n"
        "4. Predicted pictures that are not in the dataset, as `swinclf predict` does (a name "
        "says\n   what a picture shows):"
    )
    for prediction in classifier.predict(sorted(new.iterdir())):
        say(f"   {prediction.path}: {prediction.label} ({format_percent(prediction.probability)})")
    say("   (These are the middles of the photographs; the dataset has smaller tiles of all.)\n")
    say(_export(classifier, folder / "model.onnx"))
    say(
        f"6. The report, to open in a browser: {folder / 'report.html'}\n\n"
        "With your own pictures, one folder for each class:\n"
        "   swinclf train DATA                      a classifier on a pretrained network\n"
        "   swinclf train DATA --no-freeze-layers   the network is trained too: slower, better\n"
        "   swinclf predict PICTURE                 with the newest run"
    )
    return run


def accuracy_text(metrics: Metrics) -> str:
    """Return the accuracy with its interval, and that of the digits alone, in one line."""
    low, high = map(format_percent, metrics.accuracy_ci95)
    digits = [row for name, row in metrics.per_class.items() if name not in TILES]
    correct, count = sum(row.recall * row.support for row in digits), sum(r.support for r in digits)
    return (
        f"Accuracy {format_percent(metrics.accuracy)} on {metrics.images} held-out pictures "
        f"(95 % interval {low} to {high}); of the {count} digits among them, "
        f"{format_percent(correct / count)}."
    )


def write_samples(parent: Path) -> tuple[Path, Path]:
    """Write a dataset of digits and tiles of photographs, and a few images to predict.

    Returns two folders in `parent`: the dataset `pictures`, with 13 class folders, and `new`.

    Raises:
        RunError: If a folder cannot be written to, or a package lacks its photographs.
    """
    data, new = parent / "pictures", parent / "new"
    try:
        for path, picture in (*_digits(data, new), *_photographs(data, new)):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=92)
    except OSError as error:
        raise RunError(
            f"to write the sample images into '{parent}'",
            found=str(error),
            hint="swinclf demo --output DIR",
        ) from error
    return data, new


def _digits(data: Path, new: Path) -> Iterator[tuple[Path, Image.Image]]:
    """Yield paths and images of the first digits of each class, and of the next one of some."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        rows = np.flatnonzero(digits.target == label)[: DIGITS_PER_CLASS + 1]
        for number, row in enumerate(rows):
            grey = np.round(digits.images[row] * (255 / 16)).astype(np.uint8)
            size = (DIGIT_PX, DIGIT_PX)
            picture = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC)
            if number < DIGITS_PER_CLASS:
                yield data / str(label) / f"{number:02d}.png", picture
            elif label in NEW_DIGITS:
                yield new / f"digit-{label}.png", picture


def _photographs(data: Path, new: Path) -> Iterator[tuple[Path, Image.Image]]:
    """Yield paths and images of each photograph's tiles of high contrast, and of its middle."""
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_image

    photographs = {
        "palace": Image.fromarray(load_sample_image("china.jpg")),
        "flower": Image.fromarray(load_sample_image("flower.jpg")),
        "portrait": Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)),
    }
    for name, picture in photographs.items():
        columns, rows = TILES[name]
        width, height = picture.width // columns, picture.height // rows
        tiles = [
            picture.crop((left * width, top * height, (left + 1) * width, (top + 1) * height))
            for top in range(rows)
            for left in range(columns)
        ]
        tiles.sort(key=lambda tile: -float(np.asarray(tile.convert("L")).std()))
        for number, tile in enumerate(tiles[:TILES_PER_CLASS]):
            yield data / name / f"{number:02d}.jpg", tile
        width, height = picture.size
        middle = (width // 4, height // 4, width * 3 // 4, height * 3 // 4)
        yield new / f"{name}.jpg", picture.crop(middle)


def _description(data: Path) -> str:
    """Return what the dataset is, and its limits."""
    tiles = TILES_PER_CLASS * len(TILES)
    return (
        f"1. Wrote a dataset, one folder for each class: {data}\n"
        f"   0 to 9: {DIGITS_PER_CLASS} handwritten digits each, 8 x 8 px, from scikit-learn\n"
        f"   {', '.join(TILES)}: {tiles} tiles cut from three photographs that come with\n"
        "   scikit-learn and matplotlib. They are easy: tiles of the same photographs are\n"
        "   trained on. The accuracy on the digits is more meaningful.\n"
    )


def _export(classifier: Classifier, path: Path) -> str:
    """Export to ONNX if the extra is installed; return how much the outputs differ."""
    try:
        export = classifier.export(path)
    except ExportError as error:
        return f"5. No export to ONNX: {error.found}. To enable it: {error.hint}\n"
    parity = export.parity
    assert parity is not None
    return (
        f"5. Exported to {path}. On {parity.images} pictures its probabilities differ\n"
        f"   from the run's by {parity.largest:.1g} at most.\n"
    )
