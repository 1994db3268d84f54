"""demo: the whole loop on scikit-learn's handwritten digits, offline, by the public API alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from swinclf.api import Classifier, load, train
from swinclf.config import command_of, gather_settings
from swinclf.errors import ExportError, RunError
from swinclf.progress import Reporter
from swinclf.runs import next_free_folder
from swinclf.train_options import TrainOptions

SIDE_PX = 32  # the digits are 8 x 8: so large, a pixel of theirs is a patch of the network's
SHOWN = 5
SETTINGS: TrainOptions = {
    "model": "swin",
    "model_arg": ("embed_dim=64", "depths=2,2", "num_heads=2,4", "window_size=4"),
    "pretrained": False,
    "img_size": SIDE_PX,
    "epochs": 12,
    "batch_size": 16,
    "lr": 1e-3,
    "min_crop": 0.8,
    "drop_path": 0.0,
    "precision": "fp32",  # of a network so small, most time would go into converting numbers
    "threads": 1,  # and two threads would mostly wait for one another
}


def demo(parent: Path, *, report: Reporter, say: Callable[[str], None]) -> None:
    """Makes a dataset, trains, evaluates, predicts, exports, and says in plain words what it did.

    Args:
        parent: Where the dataset and the run go.
        report: Told of progress.
        say: Prints a line.

    Raises:
        SwinclfError: If it cannot be done.
    """
    data = write_digits(parent)
    say(
        f"1. Wrote a sample dataset, 1,797 handwritten digits, a folder for each of the ten: {data}"
    )
    say("2. Training a small Swin on it, from random weights:")
    options: TrainOptions = {"out": str(parent / "runs"), **SETTINGS}
    say(f"   {command_of(gather_settings({'data': str(data), **options}))}")
    run = train(data, report=report, **options)
    metrics = run.metrics
    low, high = metrics.accuracy_ci95
    say(
        f"   {metrics.accuracy:.1%} of the {metrics.images} digits that were held out are right "
        f"(95 % interval {low:.1%} to {high:.1%})."
    )
    classifier = load(run.folder.path)
    again = classifier.evaluate(output=next_free_folder(run.folder.path, "eval"))
    say(f"3. Scored the written file once more, as `swinclf eval` does: {again.accuracy:.1%}.")
    say("4. Labels for a few pictures, as `swinclf predict` gives them:")
    pictures = [min(folder.iterdir()) for folder in sorted(data.iterdir())[:SHOWN]]
    for answer in classifier.predict(pictures):
        say(f"   {answer.path}: {answer.label} ({answer.probability:.1%})")
    _export(classifier, run.folder.path / "model.onnx", say)
    say(f"6. Look at {run.folder.path / 'report.html'} and confusion_matrix.png beside it.")
    say("")
    say("With your own pictures, one folder for each class:")
    say("   swinclf train DATA                      a head on published Swin weights")
    say("   swinclf train DATA --no-freeze-layers   the whole network")
    say("   swinclf predict PICTURE                 what is it?")


def write_digits(parent: Path) -> Path:
    """Writes the digits as PNG files, a folder for each digit, and returns the dataset's folder.

    Raises:
        RunError: If the folder cannot be written to.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    data = parent / "digits"
    try:
        for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            folder = data / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            grey = np.round(pixels * (255 / 16)).astype(np.uint8)
            picture = Image.fromarray(grey).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
            picture.save(folder / f"{number:04d}.png")
    except OSError as error:
        raise RunError(
            f"to write the sample dataset into '{data}'",
            found=error.strerror or str(error),
            hint="swinclf demo --output DIR",
        ) from error
    return data


def _export(classifier: Classifier, path: Path, say: Callable[[str], None]) -> None:
    """Exports, where the extra is installed, and says how far the two answers lie apart."""
    try:
        export = classifier.export(path)
    except ExportError as error:
        say(f"5. No export to ONNX: {error.found}. To have it: {error.hint}")
    else:
        parity = export.parity
        say(
            f"5. Exported to {path}: on {parity.images} pictures its answers differ from the "
            f"run's by {parity.largest:.1g} at most."
        )
