"""An exported file with its preprocessing, compared with its run: JSON lines on stdout.

    python benchmarks/deployed.py graph RUN model.onnx PHOTOS --count 500
    python benchmarks/deployed.py page RUN model.html PHOTOS --count 50

`graph` compares the pixels that an ONNX file of `export --embed preprocess` computes with those of
Pillow, and the labels that follow from them. `page` opens a page of `export --format web` in
Chromium without a network, and compares its labels with those of `swinclf predict`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import timing

import swinclf
from swinclf.data.images import decode_image
from swinclf.data.transforms import eval_pixels, to_numpy_input
from swinclf.data.walk import walk_images
from swinclf.inference.predictor import open_predictor


def compare_graph(file: Path, photos: Sequence[Path]) -> dict[str, object]:
    """Differences of pixels, in steps of 1/255, and of labels, at the full size of each photo."""
    import onnx
    import onnxruntime

    preprocess = open_predictor(file).card.preprocess
    model = onnx.load(str(file))
    shape = ["batch", 3, preprocess.height, preprocess.width]
    pixels = onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, shape)
    model.graph.output.append(pixels)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    extract = onnx.utils.Extractor(model).extract_model(["pixels"], ["logits"])
    network = onnxruntime.InferenceSession(
        extract.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    steps = 255 * np.array(preprocess.std).reshape(3, 1, 1)
    means, largest, flips = [], 0.0, 0
    for photo in photos:
        picture = decode_image(photo.read_bytes())
        found, logits = session.run(["pixels", "logits"], {"images": np.asarray(picture)[None]})
        wanted = to_numpy_input(eval_pixels(picture, preprocess)[None], preprocess)
        difference = np.abs(found - wanted) * steps
        means.append(difference.mean())
        largest = max(largest, float(difference.max()))
        (expected,) = network.run(["logits"], {"pixels": wanted})
        flips += int(logits.argmax() != expected.argmax())
    return {
        "images": len(photos),
        "mean_difference_of_255": float(np.mean(means)),
        "largest_difference_of_255": largest,
        "label_flips": flips,
    }


def compare_page(run: Path, page: Path, photos: Sequence[Path]) -> dict[str, object]:
    """Time to the first answer, and labels that differ from predict's."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import browser

    def classify(files: Sequence[Path]) -> None:
        before = chromium.run("document.querySelectorAll('#results h2').length")
        chromium.select_files("#files", files)
        wanted = before + len(files)
        answered = "[...document.querySelectorAll('#results h2')].filter(e => e.innerText != '…')"
        chromium.wait_for(f"{answered}.length == {wanted}")

    with tempfile.TemporaryDirectory() as profile, browser.Browser(Path(profile)) as chromium:
        start = perf_counter()
        chromium.open(page)
        chromium.wait_for("!document.getElementById('files').disabled")
        classify(photos[:1])
        first = perf_counter()
        classify(photos[1:])
        labels = chromium.run(
            "[...document.querySelectorAll('#results li')]"
            ".map(item => item.querySelector('dt').textContent)"
        )
    wanted = [one.top[0][0] for one in swinclf.load(run).predict(photos)]
    return {
        "images": len(photos),
        "page_mb": page.stat().st_size / 1e6,
        "first_answer_s": first - start,
        "labels_that_differ": sum(one != other for one, other in zip(labels, wanted, strict=True)),
    }


def main() -> None:
    """Compare, and print a line of JSON."""
    parser = timing.plain_parser(__doc__)
    parser.add_argument("what", choices=["graph", "page"])
    parser.add_argument("run", type=Path, help="the run that was exported")
    parser.add_argument("file", type=Path, help="the exported file")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=500)
    given = parser.parse_args()
    found = [Path(path) for path in walk_images(str(given.photos))]
    chosen = found[:: max(1, len(found) // given.count)][: given.count]
    if given.what == "graph":
        row = compare_graph(given.file, chosen)
    else:
        row = compare_page(given.run, given.file.resolve(), chosen)
    timing.print_row(**row)


if __name__ == "__main__":
    main()
