"""A few small images stored in a run, so that an export can be compared with it anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from swinclf.data.images import UnreadableImage, decode_image, read_bytes
from swinclf.data.loader import map_ahead
from swinclf.data.walk import walk_images
from swinclf.errors import ExportError
from swinclf.files import write_bytes
from swinclf.preprocess import Preprocess
from swinclf.run_folder import RunFolder

SAMPLE_COUNT = 16


def save_samples(folder: Path, files: Sequence[Path], preprocess: Preprocess) -> None:
    """Save small copies of up to `SAMPLE_COUNT` images, spread evenly over `files`.

    The copies are upright and have no metadata. Images that cannot be read are left out.

    Raises:
        RunError: If the folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    step = max(1, len(files) // SAMPLE_COUNT)
    side = preprocess.decode_px

    def read(file: Path) -> Image.Image | None:
        with suppress(UnreadableImage):
            return decode_image(read_bytes(file), decode_px=side, ranges=preprocess.ranges)
        return None

    chosen = files[::step][:SAMPLE_COUNT]
    images = map_ahead(read, chosen, workers=0, ahead=1, late=lambda _file, _why: None)
    for number, image in enumerate(images):
        if image is None:
            continue
        if min(image.size) > side:
            scale = side / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)))
        image = image.crop((0, 0, min(image.width, 4 * side), min(image.height, 4 * side)))
        buffer = io.BytesIO()
        Image.Image.save(image, buffer, "JPEG", quality=92)
        write_bytes(folder / f"{number:02d}.jpg", buffer.getvalue())


def list_samples(folder: Path) -> list[Path]:
    """Return the stored images, in order; an empty list if there are none."""
    return sorted(folder.glob("*.jpg"))


def images_to_compare(model: Path, data: Path | None) -> list[str]:
    """Return the images in a folder; None for the samples stored next to a model.safetensors.

    Raises:
        ExportError: If there are none.
    """
    if data is None:
        images = [str(path) for path in list_samples(RunFolder(model.parent).samples)]
    else:
        images = list(walk_images(str(data)))
    if not images:
        raise ExportError(
            "real images to compare the export with the run on",
            found=f"none stored next to '{model}'" if data is None else f"none in '{data}'",
            hint=f"--data DIR, any folder of about {SAMPLE_COUNT} images",
        )
    return images
