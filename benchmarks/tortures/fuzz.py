"""Feeds damaged bytes, tables, headers and options to every reader: refused by name, or right.

Inputs are a seed's: an image, class index, weights header, settings file or option that is whole,
with bytes changed, taken out, put in or cut off. A reader may answer or raise the error that it
documents; anything else is wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from swinclf.config import SETTINGS
from swinclf.data.images import FORMATS, UnreadableImage, decode_image
from swinclf.errors import SwinclfError
from swinclf.files import read_csv, read_json
from swinclf.models.store import read_card
from swinclf.models.weights.containers import read_checkpoints
from swinclf.settings import gather_settings

NASTY = (b"\x00", b"\xff", b"\x1b[31m", b"\xff\xd9", b"{", b"}", b'"', b"-1", b"1e999", b"NaN")
WORDS = ("", "nan", "-1", "1e999", "0x10", "auto", "True", "\x00", "../..", "9" * 400, "é", "=1+1")

Input = tuple[str, bytes]


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many inputs."""
    parser.add_argument("--inputs", type=int, default=10_000, help="damaged inputs, all kinds")


def torture(options: argparse.Namespace) -> dict[str, Any]:
    """Tries as many inputs as asked for, in turn of every kind."""
    rng = np.random.default_rng(options.seed)
    counts: dict[str, Counter[str]] = {}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        kinds = readers(Path(folder))
        for number in range(options.inputs):
            name, (whole, read) = list(kinds.items())[number % len(kinds)]
            data = damaged(whole[int(rng.integers(len(whole)))], rng)
            outcome = outcome_of(read, data)
            counts.setdefault(name, Counter())[outcome.partition(":")[0]] += 1
            if outcome.startswith("wrong"):
                wrong.append(f"{name} {number}: {outcome}")
    return {
        "inputs": options.inputs,
        "kinds": {name: dict(count) for name, count in counts.items()},
        "wrong_inputs": wrong,
        "wrong": len(wrong),
    }


def readers(folder: Path) -> Mapping[str, tuple[list[bytes], Callable[[bytes], None]]]:
    """For every kind of input some whole ones, and what reads it."""
    tensors = {"head.weight": torch.zeros(3, 4), "head.bias": torch.zeros(3)}
    weights = save(tensors, {"format": "swinclf", "classes": '["a", "b"]'})
    pickled = io.BytesIO()
    torch.save({"model": tensors}, pickled)
    archive = io.BytesIO()
    arrays: dict[str, Any] = {name: one.numpy() for name, one in tensors.items()}
    np.savez(archive, **arrays)
    settings = {"epochs": 3, "lr": 0.1, "fit": "crop", "val_split": 0.2, "model_arg": ["a=b"]}
    toml = b'epochs = 3\nlr = 0.1\nfit = "crop"\nmodel-arg = ["a=b"]\n'

    def through_a_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
        def use(data: bytes) -> None:
            (folder / name).write_bytes(data)
            read(folder / name)

        return use

    return {
        "images": (_images(), read_image),
        "class indices": (
            [json.dumps({"0": "daisy", "1": "r\u00f6se"}, indent=2).encode()],
            through_a_file("class_indices.json", read_json),
        ),
        "tables": (
            [b'path,label,split\na/1.png,a,train\n"b/=1,""2.png",b,val\n'],
            through_a_file("split.csv", lambda path: read_csv(path, ("path", "label"))),
        ),
        "safetensors": ([weights], through_a_file("a.safetensors", read_card)),
        "weights": ([weights], through_a_file("b.safetensors", read_checkpoints)),
        "pickles": ([pickled.getvalue()], through_a_file("c.pth", read_checkpoints)),
        "archives": ([archive.getvalue()], through_a_file("d.npz", read_checkpoints)),
        "settings": (
            [json.dumps(settings).encode()],
            through_a_file("e.json", lambda path: gather_settings({}, path)),
        ),
        "toml": ([toml], through_a_file("f.toml", lambda path: gather_settings({}, path))),
        "options": ([word.encode() for word in WORDS], _read_option),
    }


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """A copy with one to four places changed."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(len(data) + 1))
        match rng.integers(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + int(rng.integers(1, 9))] = b""
            case 2:
                data[at:at] = NASTY[rng.integers(len(NASTY))]
            case 3:
                data[at : at + 4] = struct.pack(">I", int(rng.integers(2**32)))
            case 4:
                data[at:at] = data[: int(rng.integers(64))]
            case _ if rng.integers(4) == 0:
                del data[at:]
    return bytes(data)


def outcome_of(read: Callable[[bytes], None], data: bytes) -> str:
    """answered, refused, or wrong with the reason."""
    try:
        read(data)
    except (SwinclfError, UnreadableImage) as error:
        lines = str(error).splitlines()
        wanted = 1 if isinstance(error, UnreadableImage) else 3
        return "refused" if len(lines) == wanted and all(lines) else f"wrong: {error!r}"
    except Exception as error:
        return f"wrong: {type(error).__name__}: {error}"
    return "answered"


def _images() -> list[bytes]:
    """A small picture in every format that can be written."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        try:
            Image.fromarray(noise).save(buffer, kind)
        except (KeyError, OSError):
            continue
        found.append(buffer.getvalue())
    return found


def read_image(data: bytes) -> None:
    """Decodes a picture and reads its pixels."""
    picture = decode_image(data, decode_px=16)
    if picture.mode != "RGB" or 0 in picture.size:
        raise ValueError(f"a picture of mode {picture.mode}, {picture.size}")


def _read_option(data: bytes) -> None:
    """A word for every setting, as a text and as what it may stand for."""
    text = data.decode("utf-8", "surrogateescape")
    values: list[object] = [text]
    for kind in (int, float):
        try:
            values.append(kind(text))
        except ValueError:
            continue
    for name in SETTINGS:
        for value in values:
            try:
                gather_settings({name: value})
            except SwinclfError as error:
                if len(str(error).splitlines()) != 3:
                    raise ValueError(f"not three lines: {error}") from error
