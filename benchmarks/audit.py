"""How well copies and swapped labels are found, and how fast `check` reads: JSON lines on stdout.

Copies are planted into a copy of a folder of photographs, and found or not; so are labels, which a
training of a head on a frozen network doubts or not. Speed is that of the audit's pass over the
files and that of decoding alone, in turns over the same files, so that what else the machine does
falls on both; the ratio of the sums is what counts.

    python benchmarks/audit.py find PHOTOS
    python benchmarks/audit.py features PHOTOS --weights RUN --count 300
    python benchmarks/audit.py suspects PHOTOS
    python benchmarks/audit.py speed PHOTOS --count 50000
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timing
from held_out import frozen_settings, own_cache
from PIL import Image, ImageEnhance, ImageOps

import swinclf
from swinclf.commands.check import Audit, check
from swinclf.data.folder import scan_folder
from swinclf.data.images import decode_image, read_bytes
from swinclf.data.loader import map_ahead
from swinclf.data.scanned_files import ImageFile
from swinclf.data_quality.findings import FindingKind
from swinclf.data_quality.image_stats import read_image_stats
from swinclf.data_quality.near_duplicates import find_near_pairs
from swinclf.reporter import SILENT

WORKERS = 2


@dataclass(frozen=True)
class Planted:
    """Pairs of paths, relative to the dataset: a file and the copy of it that was planted."""

    exact: frozenset[frozenset[str]]
    near: frozenset[frozenset[str]]


def plant_copies(root: Path, *, exact: int, near: int, seed: int) -> Planted:
    """Write copies of pictures into a dataset, each into a class drawn at random.

    A near copy is encoded again as a JPEG of quality 60 to 90 and resized to 0.6 to 1.4 of its
    sides; two of three are cropped by 2 to 6 % on each side before.
    """
    rng = np.random.default_rng(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    labels = sorted(path.name for path in root.iterdir())
    pairs: list[frozenset[str]] = []
    for number, place in enumerate(rng.choice(len(files), exact + near, replace=False)):
        file = files[place]
        is_exact = number < exact
        suffix = file.suffix if is_exact else ".jpg"
        copy = root / labels[rng.integers(len(labels))] / f"planted-{number}{suffix}"
        if is_exact:
            shutil.copy(file, copy)
        else:
            write_near_copy(file, copy, rng, cropped=number % 3 > 0)
        pairs.append(frozenset(str(path.relative_to(root)) for path in (file, copy)))
    return Planted(frozenset(pairs[:exact]), frozenset(pairs[exact:]))


def write_near_copy(file: Path, copy: Path, rng: np.random.Generator, *, cropped: bool) -> None:
    """Write one copy that is not the same file."""
    picture = Image.open(file).convert("RGB")
    if cropped:
        left, top, right, bottom = rng.uniform(0.02, 0.06, 4)
        (w, h) = picture.size
        picture = picture.crop(
            (round(w * left), round(h * top), round(w * (1 - right)), round(h * (1 - bottom)))
        )
    scale = rng.uniform(0.6, 1.4)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size, Image.Resampling.BICUBIC).save(copy, quality=int(rng.integers(60, 91)))


def plant_hard_copies(root: Path, *, each: int, seed: int) -> dict[str, set[frozenset[str]]]:
    """Write copies that are far from their originals, by kind: mirrored, cropped, coloured."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    labels = sorted(path.name for path in root.iterdir())
    planted: dict[str, set[frozenset[str]]] = {kind: set() for kind in HARD}
    for number, place in enumerate(rng.choice(len(files), each * len(HARD), replace=False)):
        kind = list(HARD)[number % len(HARD)]
        copy = root / labels[rng.integers(len(labels))] / f"{kind}-{number}.jpg"
        picture = HARD[kind](Image.open(files[place]).convert("RGB"), rng)
        picture.save(copy, quality=int(rng.integers(60, 91)))
        planted[kind].add(frozenset(str(path.relative_to(root)) for path in (files[place], copy)))
    return planted


def mirror(picture: Image.Image, _rng: np.random.Generator) -> Image.Image:
    """Return the mirror image."""
    return ImageOps.mirror(picture)


def crop(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut 25 to 35 % off the width and off the height, anywhere."""
    kept = 1 - rng.uniform(0.25, 0.35, 2)
    start = rng.uniform(0, 1 - kept)
    sides = np.array(picture.size)
    left, top, right, bottom = np.concatenate([start * sides, (start + kept) * sides]).round()
    return picture.crop((int(left), int(top), int(right), int(bottom)))


def colour(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change brightness, saturation and contrast by a third to twice, and turn the hue by 35°."""
    for enhance, low, high in (
        (ImageEnhance.Brightness, (0.4, 0.6), (1.5, 1.9)),
        (ImageEnhance.Color, (0.0, 0.4), (1.8, 2.5)),
        (ImageEnhance.Contrast, (0.6, 0.8), (1.3, 1.6)),
    ):
        picture = enhance(picture).enhance(rng.uniform(*(low if rng.random() < 0.5 else high)))
    values = np.array(picture.convert("HSV"))
    values[..., 0] += np.uint8(rng.integers(-25, 26) % 256)
    return Image.fromarray(values, "HSV").convert("RGB")


HARD = {"mirrored": mirror, "cropped": crop, "coloured": colour}


def found_copies(audit: Audit, planted: Planted) -> dict[str, object]:
    """Return how many of the planted pairs were found, and what was found besides."""
    groups: dict[FindingKind, list[set[str]]] = {
        finding.kind: [set(one.paths) for one in finding.examples] for finding in audit.findings
    }
    same, alike = (
        groups.get(kind, []) for kind in (FindingKind.EXACT_DUPLICATES, FindingKind.NEAR_DUPLICATES)
    )
    agreements = {frozenset((one, other)): agreement for one, other, agreement in audit.near}
    return {
        "exact_planted": len(planted.exact),
        "exact_found": sum(any(pair <= group for group in same) for pair in planted.exact),
        "near_planted": len(planted.near),
        "near_found": sum(any(pair <= group for group in alike) for pair in planted.near),
        "lowest_agreement": min((agreements.get(pair, 1.0) for pair in planted.near), default=1.0),
        "pairs_besides": [
            [*sorted(pair), agreement]
            for pair, agreement in agreements.items()
            if pair not in planted.near
        ],
    }


def measure_finding(photos: Path) -> Iterable[dict[str, object]]:
    """Plant copies into a copy of the photographs and find them."""
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(shutil.copytree(photos, Path(folder) / "photos"))
            planted = plant_copies(root, exact=30, near=30, seed=seed)
            yield {"seed": seed, **found_copies(check(root, workers=WORKERS), planted)}


def measure_features(photos: Path, weights: Path, count: int) -> Iterable[dict[str, object]]:
    """Plant copies far from their originals among some photographs; find them without and with."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        files = sorted(photos.rglob("*.jpg"))
        for place in np.random.default_rng(0).choice(len(files), count, replace=False):
            copy = root / files[place].relative_to(photos)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files[place], copy)
        planted = plant_hard_copies(root, each=20, seed=0)
        for named in (None, weights):
            pairs = [frozenset(one[:2]) for one in check(root, weights=named, workers=WORKERS).near]
            yield {
                "weights": str(named or ""),
                **{kind: len(wanted.intersection(pairs)) for kind, wanted in planted.items()},
                "pairs_besides": [
                    sorted(pair)
                    for pair in pairs
                    if not any(map({pair}.issubset, planted.values()))
                ],
            }


def measure_suspects(photos: Path, model: str, seeds: int) -> Iterable[dict[str, object]]:
    """Swap 60 labels, once per seed, and compare them with the suspects of a training."""
    settings = {**frozen_settings(model), "epochs": 1, "workers": WORKERS}
    with own_cache() as folder:
        root = Path(shutil.copytree(photos, folder / "photos"))
        for seed in range(seeds):
            moved = swap_labels(root, 60, seed)
            run = swinclf.train(root, out=str(folder / "runs"), **settings)
            found = suspects_of(run.folder.path, root)
            first = sum(one in moved for one in found[:120])
            yield {
                "seed": seed,
                "swapped": len(moved),
                "doubted": len(found),
                "of_them_swapped": sum(one in moved for one in found),
                "swapped_in_first_120": first,
                "recall": first / len(moved),
            }
            for new, old in moved.items():
                new.rename(old)


def suspects_of(run: Path, root: Path) -> list[Path]:
    """Return the doubted images of a run, that of the least likely label first."""
    listed = run / "suspects.csv"
    if not listed.is_file():
        return []
    with listed.open(encoding="utf-8", newline="") as file:
        return [root / row["path"] for row in csv.DictReader(file)]


def swap_labels(root: Path, count: int, seed: int) -> dict[Path, Path]:
    """Move images into the folder of another class; return where each is now and was before."""
    rng = np.random.default_rng(seed)
    labels = sorted(path.name for path in root.iterdir() if path.is_dir())
    files = [path for label in labels for path in sorted((root / label).iterdir())]
    moved = {}
    for row in rng.choice(len(files), count, replace=False):
        old = files[row]
        others = [name for name in labels if name != old.parent.name]
        new = root / others[rng.integers(len(others))] / f"swapped-{old.parent.name}-{old.name}"
        moved[old.rename(new)] = old
    return moved


def measure_speed(photos: Path, count: int, px: int) -> Iterable[dict[str, object]]:
    """Audit `count` pictures composed of photographs, and time the pass by itself."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with ProcessPoolExecutor(1) as pool:  # so that its memory is not counted
            pool.submit(write_mosaics, sorted(photos.rglob("*.jpg")), root, count, px).result()
        index = scan_folder(root)
        before = peak_mib()
        started = time.perf_counter()
        facts = read_image_stats(root, index.images, workers=WORKERS, report=SILENT)
        read = time.perf_counter()
        near = find_near_pairs(root, facts, workers=WORKERS, report=SILENT)
        yield {
            "images": count,
            "px": px,
            "read_s": read - started,
            "compare_s": time.perf_counter() - read,
            "near_pairs": len(near),
            "memory_mib": round(peak_mib() - before),
        }
        yield in_turns(root, index.images[:10000])


def in_turns(root: Path, images: Sequence[ImageFile]) -> dict[str, object]:
    """Time the audit's pass and decoding alone, in turns over 500 files at a time."""

    def audit(part: Sequence[ImageFile]) -> None:
        read_image_stats(root, part, workers=WORKERS, report=SILENT)

    def decode(part: Sequence[ImageFile]) -> None:
        paths = [root / image.path for image in part]
        pictures = map_ahead(
            lambda path: decode_image(read_bytes(path)), paths, workers=WORKERS, ahead=64
        )
        deque(pictures, maxlen=0)

    seconds = {audit: 0.0, decode: 0.0}
    for start in range(0, len(images), 500):
        part = images[start : start + 500]
        for work in (audit, decode) if start % 1000 else (decode, audit):
            started = time.perf_counter()
            work(part)
            seconds[work] += time.perf_counter() - started
    return {
        "audit_images_per_second": round(len(images) / seconds[audit]),
        "decode_images_per_second": round(len(images) / seconds[decode]),
        "ratio": seconds[decode] / seconds[audit],
    }


def write_mosaics(files: Sequence[Path], root: Path, count: int, px: int) -> None:
    """Write pictures of `px`, each of four photographs side by side, all of them different."""
    rng = np.random.default_rng(0)
    half = px // 2
    photos = [np.asarray(Image.open(path).convert("RGB").resize((half, half))) for path in files]
    for number in range(count):
        four = [photos[place] for place in rng.integers(len(photos), size=4)]
        rows = (np.concatenate(pair, axis=1) for pair in (four[:2], four[2:]))
        folder = root / f"class-{number % 10}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.concatenate(list(rows))).save(folder / f"{number}.jpg", quality=90)


def peak_mib() -> float:
    """Return the most memory that this process has held."""
    import resource  # not on Windows, where the rest of this runs too

    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def main() -> None:
    """Measure what was asked for."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("what", choices=("find", "features", "suspects", "speed"))
    parser.add_argument("photos", type=Path, help="a folder of class folders of JPEG files")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--weights", type=Path, help="a run or weights file, for features")
    parser.add_argument("--model", default="embedded", help="another one has random weights")
    parser.add_argument("--seeds", type=int, default=10, help="how often labels are swapped")
    parser.add_argument("--px", type=int, default=256)
    given = parser.parse_args()
    if given.what == "speed":
        measured = measure_speed(given.photos, given.count, given.px)
    elif given.what == "features":
        if given.weights is None:
            parser.error("features of --weights RUN")
        measured = measure_features(given.photos, given.weights, given.count)
    elif given.what == "find":
        measured = measure_finding(given.photos)
    else:
        measured = measure_suspects(given.photos, given.model, given.seeds)
    for row in measured:
        timing.print_row(**row)


if __name__ == "__main__":
    main()
