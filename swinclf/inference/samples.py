"""A few small real images kept in a run, so that an export can be compared with it anywhere."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image

from swinclf.data.images import UnreadableImage, decode_image, read_bytes
from swinclf.data.loader import map_ahead
from swinclf.files import write_bytes
from swinclf.preprocess import Preprocess

SAMPLE_COUNT = 16


def save_samples(folder: Path, files: Sequence[Path], preprocess: Preprocess) -> None:
    """Keeps small copies of up to `SAMPLE_COUNT` images, evenly over `files`.

    The copies are upright and have no metadata.

    Args:
        folder: Made if it is not there.
        files: Images, e.g. those held out; ones that cannot be read are left out.
        preprocess: Tells how large a copy has to be.

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
    pictures = map_ahead(read, chosen, workers=0, ahead=1, late=lambda _file, _why: None)
    for number, picture in enumerate(pictures):
        if picture is None:
            continue
        if min(picture.size) > side:
            scale = side / min(picture.size)
            picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        picture = picture.crop((0, 0, min(picture.width, 4 * side), min(picture.height, 4 * side)))
        buffer = io.BytesIO()
        Image.Image.save(picture, buffer, "JPEG", quality=92)
        write_bytes(folder / f"{number:02d}.jpg", buffer.getvalue())


def list_samples(folder: Path) -> list[Path]:
    """The kept images, in order; none where none were kept."""
    return sorted(folder.glob("*.jpg"))
