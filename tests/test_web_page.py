"""export --format web: one HTML file that classifies images in a browser, without a network."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import browser
import numpy as np
import pytest
from conftest import error_lines, write_image
from PIL import Image

import swinclf
from swinclf.card import ModelCard
from swinclf.confidence.selective import Confidence, Threshold
from swinclf.config import Impl
from swinclf.device import Precision
from swinclf.exporting.source import ExportSource
from swinclf.exporting.web import RUNTIME, WASM, export_web
from swinclf.preprocess import Fit, Interpolation, Preprocess

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HOSTILE = "<img src=x onerror='document.title=1'>"
CLASSES = ("blue", HOSTILE, "red")
COLOURS = ((40, 60, 200), (40, 170, 60), (200, 50, 40))
LEAST = 0.9  # probability of an accepted answer


def graph_of_the_upper_half():
    """A network whose logits are the mean blue, green and red of the upper half of an image."""
    helper, constant = onnx.helper, onnx.numpy_helper.from_array
    value, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["pixels", "top", "middle", "rows"], ["upper"]),
            helper.make_node("ReduceMean", ["upper", "sides"], ["features"], keepdims=0),
            helper.make_node("MatMul", ["features", "weight"], ["logits"]),
        ],
        "colours",
        [value("pixels", kind, ["batch", 3, 32, 32])],
        [value("logits", kind, ["batch", 3]), value("features", kind, ["batch", 3])],
        [
            constant(np.array([0]), "top"),
            constant(np.array([16]), "middle"),
            constant(np.array([2]), "rows"),
            constant(np.array([2, 3]), "sides"),
            constant(5 * np.eye(3, dtype=np.float32)[::-1], "weight"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a network of colours; one class has a hostile name."""
    half = (0.5, 0.5, 0.5)
    preprocess = Preprocess(
        **{"height": 32, "width": 32, "interpolation": Interpolation.BICUBIC, "crop_pct": 0.9},
        **{"mean": half, "std": half, "fit": Fit.CROP},
    )
    card = ModelCard(
        model="colours",
        impl=Impl.NATIVE,
        classes=CLASSES,
        preprocess=preprocess,
        precision=Precision.FP32,
        confidence=Confidence(thresholds=(Threshold(0.95, LEAST, 0.5),)),
    )
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "swinclf.exporting.writers._network_graph", lambda _: graph_of_the_upper_half()
        )
        source = ExportSource(None, card, folder / "model.safetensors", license="none")
        export_web(source, folder / "model.html")
    return folder / "model.html"


def two_colours(size=(320, 200)):
    """A picture that is red above and blue below."""
    picture = Image.new("RGB", size, COLOURS[0])
    picture.paste(COLOURS[2], (0, 0, size[0], size[1] // 2))
    return picture


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of many kinds and sizes: a dozen that can be read, and one that cannot."""
    folder = tmp_path_factory.mktemp("images")
    noisy = folder / "noisy.png"
    plain = []
    for number in range(9):
        write_image(noisy, COLOURS[number % 3], number)
        plain.append(Image.open(io.BytesIO(noisy.read_bytes())))
    noisy.unlink()
    turned = Image.Exif()
    turned[0x112] = 6  # to be turned clockwise
    two_colours().save(folder / "01 upright.jpg", quality=95)
    lying = two_colours().transpose(Image.Transpose.ROTATE_90)
    lying.save(folder / "02 lying.jpg", quality=95, exif=turned)
    alpha = plain[0].convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    alpha.save(folder / "03 alpha.png")
    plain[1].convert("L").save(folder / "04 grey.png")
    plain[2].quantize(16).save(folder / "05 palette.gif")
    plain[3].save(folder / "06.webp", lossless=True)
    plain[4].resize((900, 11)).save(folder / "07 wide.png")
    plain[5].resize((1, 1)).save(folder / "08 tiny.bmp")
    plain[6].resize((1500, 1100)).save(folder / "09 large.png")
    two_colours((5, 9)).save(folder / "10 small.png")
    for number, one in enumerate(plain[7:], 11):
        one.save(folder / f"{number} <b>&.png")
    (folder / "13 broken.png").write_bytes(b"no picture")
    return sorted(folder.iterdir())


def model_in(page):
    """The ONNX model in a page."""
    (text,) = re.findall(r'id="model">([^<]*)<', page.read_text(encoding="utf-8"))
    return gzip.decompress(base64.b64decode(text))


@contextmanager
def served(folder):
    """The address of a folder on a web server."""
    handler = partial(SilentHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class SilentHandler(SimpleHTTPRequestHandler):
    """Serves files, also as modules, and logs nothing."""

    extensions_map = {".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_):
        """Do not log."""


@pytest.fixture(scope="module")
def opened(chromium, page):
    """The page, ready."""
    chromium.open(page)
    chromium.wait_for("!document.getElementById('files').disabled")
    return chromium


def classify(chromium, files):
    """The name, heading and first class with its share of each image, as the page shows them."""
    chromium.run("document.getElementById('clear').click()")
    chromium.select_files("#files", files)
    chromium.wait_for(f"document.getElementById('status').innerText.includes('of {len(files)} ')")
    chromium.wait_for("/classified/.test(document.getElementById('status').innerText)")
    rows = chromium.run(
        "[...document.querySelectorAll('#results li')].map(item => [item.querySelector('p'),"
        " ...item.querySelectorAll('h2, dt:first-of-type, dd:first-of-type')]"
        ".map(part => part.textContent))"
    )
    return [tuple(row) for row in rows]


def test_the_page_gives_the_answers_of_predict(opened, page, images):
    opened.said.clear()
    opened.asked.clear()
    *good, broken = classify(opened, images)
    assert broken[1] == "cannot be read"
    assert len(good) == 12
    wanted = swinclf.load(page).predict(images)
    for (name, heading, label, share), path, one in zip(good, images, wanted, strict=False):
        assert (name, label) == (path.name, one.label)
        probability = float(share.removesuffix("\u00a0%")) / 100
        assert probability == pytest.approx(one.probability, abs=0.01), name
        assert heading == (label if one.probability >= LEAST else "not sure")
    assert {row[1] for row in good} == {"not sure", *CLASSES}
    assert opened.said == []
    assert {one.partition(":")[0] for one in opened.asked} == {"blob"}, "the page's own images"
    assert opened.run("document.title") == "Image classifier"


def test_a_photograph_is_turned_upright(opened, images):
    upright, lying = classify(opened, images[:2])
    assert upright[2] == lying[2] == "red", "only the upper half is red"


def test_the_table_of_results_can_be_saved(opened, images):
    classify(opened, [images[10], images[12]])
    script = (
        "new Promise(done => { URL.createObjectURL = blob => (blob.text().then(done), 'blob:x');"
        "HTMLAnchorElement.prototype.click = () => 0; document.getElementById('save').click() })"
    )
    header, first, second, rest = opened.run(script).split("\n")
    assert (header, rest) == ("path,label,probability,error", "")
    assert first.startswith("11 <b>&.png,")
    assert second.startswith("13 broken.png,,,")


def test_images_are_chosen_by_keyboard(chromium, page):
    chromium.open(page)
    chromium.wait_for("!document.getElementById('files').disabled")
    chromium.press("Tab")
    assert chromium.run("document.activeElement.id") == "files"
    assert chromium.run("document.activeElement.labels[0].innerText").startswith("Drop images")


def test_a_drop_leaves_the_page_open_also_without_a_model(chromium, page, tmp_path):
    """By default a browser opens a file that is dropped on a page, instead of the page."""
    broken = tmp_path / "broken.html"
    broken.write_text(re.sub('(id="model">)[^<]*', r"\1", page.read_text("utf-8")), "utf-8")
    chromium.open(broken)
    status = "document.getElementById('status').innerText"
    chromium.wait_for(f"{status}.startsWith('The model cannot be loaded')")
    drop = (
        "(data => (data.items.add(new File([''], 'a.png')), document.dispatchEvent("
        "new DragEvent('{}', {{cancelable: true, dataTransfer: data}}))))(new DataTransfer())"
    )
    for kind in ("dragover", "drop"):
        assert chromium.run(drop.format(kind)) is False, "the page handles it"
    chromium.wait_for(f"{status}.startsWith('The model cannot be loaded')")
    assert chromium.run("document.body.className") == ""


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_stands_out_sideways(chromium, page, images, width):
    chromium.open(page, width=width, dark=width == 390)
    chromium.wait_for("!document.getElementById('files').disabled")
    classify(chromium, images[7:])
    assert chromium.run("document.documentElement.scrollWidth") == width


def test_the_page_is_one_file_that_can_reach_nothing(page):
    text = page.read_text("utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    rules = dict(one.split(" ", 1) for one in unescape(policy).split("; "))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert rules["img-src"] == "blob:"
    assert re.fullmatch(r"'sha256-\S+' 'wasm-unsafe-eval'", rules["script-src"])
    assert not re.search(r"<(link|iframe|object|embed)\b|<[^>]*\s(src|href)=|@import|url\(", text)
    assert HOSTILE not in text
    (model,) = re.findall(r'id="model">([^<]+)<', text)
    assert page.stat().st_size - len(model) < 6e6
    assert "Copyright (c) Microsoft Corporation" in text


def test_a_page_is_accepted_as_a_run(page, images, cli, tmp_path):
    done = cli("predict", *images[:12], "--run", page, "--reject", "0.95", "--json")
    assert done.code == 0, done.err
    assert {row["label"] for row in json.loads(done.out)} == {"unknown", *CLASSES}
    foreign = tmp_path / "report.html"
    foreign.write_text("<p>no model</p>")
    refused = cli("predict", images[0], "--run", foreign)
    assert refused.code == 1
    assert "a page without a model" in error_lines(refused)[1]


def test_the_command_names_dataset_and_accuracy(trained, network_graph, cli, tmp_path):
    del network_graph
    done = cli("export", "--run", trained.path, "--format", "web", "--output", tmp_path / "m.html")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 'm.html'}\n"
    text = (tmp_path / "m.html").read_text("utf-8")
    assert "<title>Image classifier: colours</title>" in text
    assert "test_vit distinguishes 3 classes (blue, green, red)" in text
    assert re.search(r"images like those of .colours. .* [\d.]+ % were correct", text)
    assert "\u201cNot sure\u201d: the image is unlike the training images" in text
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    (run / "metrics.json").write_text(json.dumps({**metrics, "split": "train"}), "utf-8")
    assert cli("export", "--run", run, "--format", "web", "--output", tmp_path / "t.html").code == 0
    assert "were correct" not in (tmp_path / "t.html").read_text("utf-8"), "it had seen them"


def test_the_page_of_the_docs_gives_the_answers_of_predict(page, images, tmp_path):
    """A page of one's own, with the same model as a file; a class is left out as `unknown`."""
    if browser.EXECUTABLE is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    text = (Path(__file__).parents[1] / "docs" / "exports.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```html\n(.*?)```", text, re.DOTALL)
    assert len(program.splitlines()) <= 25
    (tmp_path / "index.html").write_text(program, "utf-8")
    (tmp_path / "model.onnx").write_bytes(model_in(page))
    names = {str(index): name for index, name in enumerate(("blue", "green", "red"))}
    (tmp_path / "class_indices.json").write_text(json.dumps(names), "utf-8")
    runtime = resources.files("swinclf.exporting") / "onnxruntime_web"
    (tmp_path / RUNTIME).write_bytes((runtime / RUNTIME).read_bytes())
    wasm = gzip.decompress((runtime / WASM).read_bytes())
    (tmp_path / WASM.removesuffix(".gz")).write_bytes(wasm)
    (tmp_path / "favicon.ico").write_bytes(b"")  # the browser asks for it
    opaque = [one for one in images if "broken" not in one.name and "alpha" not in one.name]
    with served(tmp_path) as address, browser.Browser(tmp_path / "profile", server=True) as one:
        one.open(address)
        one.wait_for("document.querySelector('input').onchange !== null")
        one.select_files("input", opaque)
        shown = "document.querySelector('pre').innerText"
        one.wait_for(f"{shown}.split('\\n').length > {len(opaque)}")
        rows = [line.rsplit(" ", 2) for line in one.run(shown).splitlines()]
        assert one.said == []
    for (name, label, share), path, wanted in zip(
        rows, opaque, swinclf.load(page).predict(opaque), strict=True
    ):
        best = "green" if wanted.label == HOSTILE else wanted.label
        assert name == path.name
        assert label == (best if wanted.probability >= LEAST else "unknown")
        assert float(share) == pytest.approx(wanted.probability, abs=0.01)
    assert {row[1] for row in rows} == {"unknown", "blue", "green", "red"}


def test_the_runtime_is_the_published_one():
    folder = resources.files("swinclf.exporting") / "onnxruntime_web"
    wasm = gzip.decompress((folder / "ort-wasm-simd-threaded.wasm.gz").read_bytes())
    assert wasm[:4] == b"\0asm"
    script = (folder / "ort.wasm.bundle.min.mjs").read_text("utf-8")
    version = re.search(r"ONNX Runtime Web v([\d.]+)", script)
    assert version
    notice = (Path(__file__).parent.parent / "NOTICE").read_text("utf-8")
    assert f"onnxruntime-web {version[1]}" in notice
