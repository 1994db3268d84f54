"""The server: what it answers, what it refuses, how its page works, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from urllib.parse import parse_qs, urlsplit

import browser
import numpy as np
import pytest
from command_lines import parse
from conftest import COLOURS, error_lines, write_image
from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import Request
from warm_processes import WarmProcess

from swinclf.errors import DeviceError
from swinclf.inference.predictor import open_predictor
from swinclf.serving.batcher import ImageBatcher
from swinclf.serving.gate import Gate, RequestError, ServeCounters
from swinclf.serving.http_api import PredictionService, build_api
from swinclf.serving.serve_limits import ServeLimits
from swinclf.serving.server import ServerAddress
from swinclf.serving.uploads import Upload, UploadReader

ROOT = Path(__file__).parent.parent
TOKEN = "a-token"
LIMITS = (
    *("--max-file", "1", "--max-request", "2", "--max-files", "6", "--max-pixels", "1000000"),
    *("--max-seconds", "1.5"),
)
BOUNDARY = "b-o-u-n-d-a-r-y"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass
class Answer:
    """A response: its status, headers and text."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def rows(self):
        return [json.loads(line) for line in self.text.splitlines()]


@dataclass
class Server:
    """A running `swinclf serve`."""

    process: WarmProcess
    url: str

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method, path, body=None, **headers):
        """Sends a request with the token, unless another one is given."""
        connection = self.connect()
        names = {"authorization": f"Bearer {TOKEN}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        try:
            connection.request(method, path, body, names)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, text)

    def predict(self, *files, query="", **headers):
        """Sends files as a form."""
        return self.ask("POST", f"/predict{query}", form(files), content_type=FORM, **headers)


def form(files, end=f"--{BOUNDARY}--\r\n"):
    parts = []
    for file in files:
        head = f'Content-Disposition: form-data; name="file"; filename="{file.name}"'
        parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + file.read_bytes() + b"\r\n")
    return b"".join(parts) + end.encode()


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    """One process for all tests of this file; the last of them stops it."""
    words = ("--port", "0", "--token", TOKEN, "--json", *LIMITS)
    folder = tmp_path_factory.mktemp("server")
    process = WarmProcess("serve", "--run", trained.path, *words, folder=folder)
    process.wait_for("test_vit answers there")
    address = json.loads(process.stdout)
    assert address["token"] == TOKEN
    assert address["model"] == "test_vit"
    yield Server(process, address["url"])
    process.kill()


@pytest.fixture
def pictures(tmp_path):
    """An image of each colour."""
    paths = [tmp_path / f"{name}.png" for name in COLOURS]
    for number, path in enumerate(paths):
        write_image(path, COLOURS[path.stem], seed=number + 70)
    return paths


@pytest.fixture
def damaged(tmp_path):
    """Files that cannot be predicted by kind, and the status of each."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(noise).save(tmp_path / "heavy.png")
    Image.new("RGB", (2000, 1000)).save(tmp_path / "wide.png")
    whole = io.BytesIO()
    Image.fromarray(noise[:200]).save(whole, "JPEG")
    (tmp_path / "truncated.jpg").write_bytes(whole.getvalue()[:5000])
    statuses = {
        **{"text.jpg": 415, "empty.jpg": 422, "truncated.jpg": 422},
        **{"heavy.png": 413, "wide.png": 413},
    }
    return {tmp_path / name: status for name, status in statuses.items()}


# --- predictions ---------------------------------------------------------------------------------


def assert_same_rows(rows, expected):
    """The same keys, labels and order; probabilities up to the rounding of another batch size."""
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert list(row) == list(wanted)
        assert row["label"] == wanted["label"]
        assert [one["label"] for one in row["top"]] == [one["label"] for one in wanted["top"]]
        shares = [one["probability"] for one in wanted["top"]]
        assert [one["probability"] for one in row["top"]] == pytest.approx(shares, abs=1e-5)
        assert row["probability"] == row["top"][0]["probability"]


@pytest.mark.parametrize("words", [(), ("--top-k", "2"), ("--reject", "0.5")])
def test_rows_are_those_of_predict(server, cli, trained, pictures, words):
    done = cli("predict", *pictures, "--run", trained.path, "--format", "jsonl", *words)
    expected = [json.loads(line) for line in done.out.splitlines()]
    query = "?" + "=".join(words).removeprefix("--").replace("-", "_") if words else ""
    answer = server.predict(*pictures, query=query)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [row["path"] for row in answer.rows] == [path.name for path in pictures]
    assert_same_rows(answer.rows, expected)
    for path, wanted in zip(pictures, expected, strict=True):
        body = server.ask("POST", f"/predict{query}", path.read_bytes())
        assert body.status == 200
        assert body.rows[0]["path"] == ""
        assert_same_rows(body.rows, [wanted])
    listed = server.predict(*pictures, query=query, accept="application/json")
    assert_same_rows(json.loads(listed.text), expected)


def test_concurrent_requests_share_batches(server, pictures):
    def counts():
        text = server.ask("GET", "/metrics").text
        found = re.findall(r"^swinclf_batch_images_(count|sum) (\S+)", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    before = counts()
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(server.predict, 12 * pictures))
    after = counts()
    assert {answer.status for answer in answers} == {200}
    labels = [answer.rows[0]["label"] for answer in answers]
    assert labels == 12 * [path.stem for path in pictures]
    assert after["sum"] - before["sum"] == 36
    assert after["count"] - before["count"] < 36


def test_what_cannot_be_read_has_the_reason_of_predict(server, cli, trained, damaged, pictures):
    rows = {}
    for path, status in damaged.items():
        answer = server.ask("POST", "/predict", path.read_bytes())
        assert answer.status == status, answer.text
        assert list(answer.rows[0]) == ["path", "error"]
        rows[path] = answer.rows[0]["error"]
        assert server.predict(path).status == status
    same = [path for path in damaged if path.name in ("text.jpg", "truncated.jpg")]
    done = cli("predict", *same, "--run", trained.path, "--format", "jsonl")
    assert [json.loads(line)["error"] for line in done.out.splitlines()] == [
        rows[path] for path in same
    ]
    reasons = {path.name: reason for path, reason in rows.items()}
    assert re.fullmatch(r"1,\d{3},\d{3} bytes; the limit is 1,048,576", reasons["heavy.png"])
    assert reasons["wide.png"] == "2000 x 1000 px; the limit is 1,000,000 px"
    mixed = server.predict(same[0], pictures[0])
    assert mixed.status == 200
    assert ["error" in row for row in mixed.rows] == [True, False]


# --- refusals ------------------------------------------------------------------------------------


def refusal(answer):
    """The three parts of an error."""
    parts = re.fullmatch(r"expected (.+)\nfound: (.+)\ntry: (.+)", json.loads(answer.text)["error"])
    assert parts, answer.text
    return parts.groups()


def test_forms_are_limited(server, pictures, tmp_path):
    many = server.predict(*pictures, *pictures, pictures[0])
    assert many.status == 413
    assert refusal(many)[0] == "at most 6 files in a request"
    (tmp_path / "large").write_bytes(bytes(3 * 2**20))
    large = server.predict(tmp_path / "large")
    assert large.status == 413
    assert re.fullmatch(r"3,\d{3},\d{3} bytes; the limit is 2,097,152", refusal(large)[1])
    none = server.ask("POST", "/predict", form([]), content_type=FORM)
    assert none.status == 422
    for body in (form(pictures, end=""), b"no form"):
        broken = server.ask("POST", "/predict", body, content_type=FORM)
        assert broken.status == 400
        assert refusal(broken)[0].startswith("a form")


def test_a_body_is_limited_as_a_form():
    async def receive():
        return {"type": "http.request", "body": bytes(2**20 + 1)}

    async def read():
        reader = UploadReader(ServeLimits(request_mib=1))
        async with reader.read(Request({"type": "http", "headers": []}, receive)):
            pass

    with pytest.raises(RequestError) as refused:
        asyncio.run(read())
    assert refused.value.status == 413


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [
        (422, "POST", "/predict?top_k=0"),
        (422, "POST", "/predict?reject=2"),
        (422, "POST", "/predict?reject=0.99999"),
        (404, "GET", "/nothing"),
        (405, "GET", "/predict"),
    ],
)
def test_wrong_requests_have_errors_in_three_parts(server, status, method, path):
    answer = server.ask(method, path)
    assert answer.status == status
    assert refusal(answer)


def test_only_those_with_the_token_are_answered(server):
    for given in ("Bearer another", f"Bearer {TOKEN}x", "", "Bearer ü"):
        answer = server.ask("GET", "/model", authorization=given.encode())
        assert answer.status == 401
        assert TOKEN not in answer.text
    assert server.ask("GET", "/health", authorization="").status == 200
    assert server.ask("GET", "/", authorization="").status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_names_that_resolve_to_this_machine_are_refused(server, host):
    answer = server.ask("GET", "/model", host=host)
    assert answer.status == 421
    assert refusal(answer)[1] == host
    for good in ("localhost", "127.0.0.1:9", "[::1]:9"):
        assert server.ask("GET", "/model", host=good).status == 200


def test_a_slow_client_does_not_hold_others(server, pictures):
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    slow = []
    for _ in range(20):
        one = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        one.sendall(f"{head}Content-Length: 1000\r\n\r\nstart".encode())
        slow.append(one)
    start = time.monotonic()
    assert server.predict(*pictures).status == 200
    assert time.monotonic() - start < 2
    for one in slow:
        with one:
            assert one.recv(4096).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@pytest.mark.parametrize("before", ["", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_headers_that_do_not_end_close_the_connection(server, before):
    """As the first request of a connection, and as a later one; another byte does not delay it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as one:
        if before:
            one.sendall(before.encode())
            assert one.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        start = time.monotonic()
        one.sendall(b"GET /health HTTP/1.1\r\nHost:")
        time.sleep(0.7)
        one.sendall(b" ")
        while one.recv(4096):  # the rest of the first response
            pass
        assert 0.7 < time.monotonic() - start < 10


def test_a_refused_client_that_sends_on_slowly_is_given_up(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as one:
        one.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        start = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - start < 20:
                one.sendall(b" ")
                time.sleep(0.3)
        assert time.monotonic() - start < 10


def test_a_connection_stays_open_for_the_next_request(server):
    """Also after the time that headers may take."""
    connection = server.connect()
    for pause in (0, 1.8):
        time.sleep(pause)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        kept = connection.sock
    assert connection.sock is kept
    connection.close()


# --- the service, with a model that waits or fails ------------------------------------------------


def test_a_class_name_that_is_not_utf_8_is_described(predictor):
    predictor.card = replace(predictor.card, classes=("caf\udce9", "tea"))
    service = PredictionService(predictor, None, None, ServeLimits(), None, ServeCounters())
    (route,) = (one for one in build_api(service).routes if one.path == "/model")
    answer = asyncio.run(route.endpoint())
    assert json.loads(answer.body)["classes"] == ["caf\udce9", "tea"]


def test_decoded_images_wait_in_bounded_memory(predictor, monkeypatch):
    """Readers wait for the model: an image takes far more memory than its file."""
    decoded, release = [], Event()
    outputs, parallel = predictor.outputs, predictor.parallel

    def wait(pixels):
        release.wait(30)
        return outputs(pixels)

    def decode(*_arguments, **_options):
        decoded.append(1)
        return np.zeros((32, 32, 3), np.uint8)

    monkeypatch.setattr(predictor, "outputs", wait)
    monkeypatch.setattr("swinclf.serving.batcher.decode_encoded", decode)
    room = 2 * parallel.size * parallel.count
    with ImageBatcher(
        predictor, workers=2, limits=ServeLimits(), on_batch=lambda _count: None
    ) as batcher:
        futures = [batcher.submit(b"") for _ in range(2 * room)]
        time.sleep(0.3)
        assert len(decoded) <= room
        release.set()
        assert all(one.result(30).probabilities is not None for one in futures)
    assert len(decoded) == 2 * room


@pytest.fixture
def predictor(trained):
    return open_predictor(trained.path / "model.safetensors")


def serving(predictor, limits, *requests, counters=None):
    """The status of each concurrent request of so many images."""
    one = io.BytesIO()
    Image.new("RGB", (40, 40)).save(one, "PNG")

    async def ask(service, count):
        uploads = [Upload("a.png", one.getvalue())] * count
        try:
            return (await service.predict(uploads, 5, None))[0]
        except (RequestError, DeviceError) as error:
            return getattr(error, "status", 503)

    async def run(service):
        return await asyncio.gather(*(ask(service, count) for count in requests))

    counters = counters or ServeCounters()
    batcher = ImageBatcher(predictor, workers=1, limits=limits, on_batch=counters.batches.observe)
    with batcher:
        statuses = asyncio.run(
            run(PredictionService(predictor, None, None, limits, batcher, counters))
        )
    assert batcher.waiting == 0
    return statuses


def test_a_full_queue_and_an_overdue_answer_are_refused(predictor, monkeypatch):
    release = Event()
    outputs = predictor.outputs

    def wait(pixels):
        release.wait(0.5)
        return outputs(pixels)

    monkeypatch.setattr(predictor, "outputs", wait)
    limits = ServeLimits(queue=3, seconds=0.2)
    assert serving(predictor, limits, 2, 2) == [503, 429]
    assert serving(predictor, ServeLimits(queue=3), 2, 2) == [200, 429]
    release.set()
    assert serving(predictor, ServeLimits(queue=3), 5) == [200], "alone, it could never be sent"


def test_a_failure_of_the_model_is_not_the_end(predictor, monkeypatch):
    outputs, calls = predictor.outputs, []

    def fail_once(pixels):
        calls.append(len(pixels))
        if len(calls) == 1:
            raise DeviceError("memory", found="none", hint="less")
        return outputs(pixels)

    monkeypatch.setattr(predictor, "outputs", fail_once)
    counters = ServeCounters()
    for status, predicted in ((503, None), (200, 1.0)):
        assert serving(predictor, ServeLimits(), 1, counters=counters) == [status]
        found = counters._registry.get_sample_value("swinclf_images_total", {"result": "predicted"})
        assert found == predicted


def test_a_batch_that_memory_does_not_suffice_for_is_answered_in_parts(predictor, monkeypatch):
    compute = predictor._computer.outputs

    def compute_one(inputs):
        if len(inputs) > 1:
            raise RuntimeError("CUDA out of memory")
        return compute(inputs)

    monkeypatch.setattr(predictor._computer, "outputs", compute_one)
    assert serving(predictor, ServeLimits(), 5, 3) == [200, 200]


# --- the rest of the API -------------------------------------------------------------------------


def test_the_model_is_described(server, trained):
    found = json.loads(server.ask("GET", "/model").text)
    assert found["classes"] == sorted(COLOURS)
    assert found["metrics"] == json.loads((trained.path / "metrics.json").read_text())
    assert found["preprocessing"]["height"] == 32
    assert found["limits"]["files"] == 6
    assert found["versions"]["serving"]["swinclf"]
    described = json.loads(server.ask("GET", "/openapi.json").text)
    assert {*described["paths"]} == {"/predict", "/model", "/health", "/metrics"}


def test_requests_are_counted(server):
    def counted(status):
        text = server.ask("GET", "/metrics").text
        return float(re.search(rf'swinclf_requests_total{{status="{status}"}} (\S+)', text)[1])

    assert server.ask("GET", "/nothing").status == 404
    before = counted(404)
    server.ask("GET", "/nothing")
    assert counted(404) == before + 1


# --- the command ---------------------------------------------------------------------------------


def test_a_port_in_use_and_a_missing_extra_are_errors(cli, trained, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        busy = cli("serve", "--run", trained.path, "--port", port)
    assert busy.code == 2
    assert error_lines(busy)[0] == f"to listen on 127.0.0.1, port {port} (--host, --port)"
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    missing = cli("serve", "--run", trained.path)
    assert error_lines(missing)[1:] == ("not installed: uvicorn", "pip install 'swinclf[serve]'")


def test_other_machines_need_a_token(cli, trained, monkeypatch):
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    words = ("serve", "--run", trained.path, "--port", "0")
    first, second = (cli(*words, "--host", "0.0.0.0").out for _ in range(2))
    (token,) = re.findall(r"^http://\S+:\d+/#token=(\S{32})\n$", first)
    assert token not in second
    assert re.fullmatch(r"http://127.0.0.1:\d+\n", cli(*words).out)
    monkeypatch.setenv("SWINCLF_TOKEN", "mine")
    assert cli(*words).out.endswith("#token=mine\n")


@pytest.mark.parametrize("token", ["a+b&c=%25d #e", "schlüssel-鍵", "caf\udce9"])
def test_a_token_may_have_any_characters(token):
    address = ServerAddress("127.0.0.1", 8000, token)
    (read,) = parse_qs(urlsplit(address.page_url).fragment, errors="surrogateescape")["token"]
    assert read == token, "parsed like the page's URLSearchParams"
    gate = Gate(None, token=token, is_loopback=False, counters=ServeCounters())
    for sent, status in ((token, None), (token[:-1], 401)):
        sent_bytes = f"Bearer {sent}".encode(errors="surrogateescape")
        refusal = gate._refusal(Headers(raw=[(b"authorization", sent_bytes)]), "/model")
        assert getattr(refusal, "status", None) == status


# --- the documentation ---------------------------------------------------------------------------


DOCS = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def example(server, language):
    """The examples of the page in a language that have its address, which becomes the server's."""
    found = re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    (text,) = (block for block in found if "http://127.0.0.1:8000/predict" in block)
    return text.replace("http://127.0.0.1:8000", server.url)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The photographs of the examples, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "rose.jpg", COLOURS["red"], seed=7)
    write_image(tmp_path / "daisy.jpg", COLOURS["green"], seed=8)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_example_of_curl(server, photos):
    del photos
    script = example(server, "sh").replace("curl ", f"curl -sSH 'Authorization: Bearer {TOKEN}' ")
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["path"], row["label"]) for row in rows] == [
        *(("", "red"), ("rose.jpg", "red"), ("daisy.jpg", "green"))
    ]


def test_the_example_of_python(server, photos, capsys):
    del photos
    opener = urllib.request.build_opener()
    opener.addheaders = [("Authorization", f"Bearer {TOKEN}")]
    urllib.request.install_opener(opener)
    exec(compile(example(server, "python"), "serve.md", "exec"), {})
    urllib.request.install_opener(None)
    assert re.fullmatch(r"red 0\.\d+\n", capsys.readouterr().out)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_example_of_javascript(server, photos, tmp_path):
    del photos
    token = f"const plain = fetch, headers = {{ Authorization: 'Bearer {TOKEN}' }};"
    token += "globalThis.fetch = (url, options) => plain(url, { ...options, headers });"
    (tmp_path / "example.mjs").write_text(f"{token}\n{example(server, 'js')}")
    command = ["node", "--no-warnings", "example.mjs"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    words = [line.split()[:2] for line in done.stdout.splitlines()]
    assert words == [["rose.jpg", "red"], ["daisy.jpg", "green"]]


def test_limits_in_the_documentation_are_the_defaults():
    table = dict(re.findall(r"^\| `(--max-\w+)` \| (\S+)", DOCS, re.MULTILINE))
    limits = ServeLimits()
    assert table == {
        **{"--max-file": f"{limits.file_mib}", "--max-request": f"{limits.request_mib}"},
        **{"--max-files": f"{limits.files}", "--max-pixels": "as", "--max-queue": "256"},
        "--max-seconds": f"{limits.seconds:g}",
    }


def test_the_dockerfile_installs_and_runs_what_there_is():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    assert copied
    for name in sum(copied, []):
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r"'/src\[(.+?)\]'", "\n".join(lines))
    assert {*extras.split(",")} <= project["optional-dependencies"].keys()
    run = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in lines if " " in line}
    assert json.loads(run["ENTRYPOINT"]) == ["swinclf"]
    parse(json.loads(run["CMD"]))


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.EXECUTABLE is None:
        pytest.skip("needs chromium (Debian: apt-get install chromium)")
    with browser.Browser(tmp_path_factory.mktemp("profile"), server=True) as one:
        yield one


CARDS = """[...document.querySelectorAll('#cards > li')].map(card => ({
    state: card.dataset.state, heading: card.querySelector('h2').textContent,
    file: card.querySelector('.file').textContent, text: card.textContent,
    drawn: Boolean(card.querySelector('canvas')),
    bars: [...card.querySelectorAll('meter')].map(one => one.value)}))"""


def cards_when_done(chromium, count):
    """The cards, once all have an answer."""
    until = time.monotonic() + 20
    while True:
        cards = chromium.run(CARDS)
        if len(cards) == count and all("state" in card for card in cards):
            return cards
        assert time.monotonic() < until, cards


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_predicts_what_is_dropped(
    server, chromium, cli, trained, pictures, damaged, width, dark
):
    chromium.said.clear()
    chromium.asked.clear()
    text = next(path for path in damaged if path.name == "text.jpg")
    chromium.open(f"{server.url}/?{width}#token={TOKEN}", width=width, dark=dark)
    chromium.select_files("#files", [*pictures, text])
    cards = cards_when_done(chromium, 4)
    done = cli("predict", *pictures, "--run", trained.path, "--format", "jsonl")
    expected = [json.loads(line) for line in done.out.splitlines()]
    assert [card["heading"] for card in cards[:3]] == [row["label"] for row in expected]
    for card, row in zip(cards, expected, strict=False):
        assert card["drawn"]
        shares = [one["probability"] for one in row["top"]]
        assert card["bars"] == pytest.approx(shares, abs=1e-5)
    assert cards[3]["state"] == "error"
    assert "not an image of a known format" in cards[3]["text"]
    assert chromium.run("document.querySelector('#status').textContent") == "4 of 4 images done"
    assert chromium.run("document.documentElement.scrollWidth") <= width
    assert all(address.startswith(server.url) for address in chromium.asked)
    assert [one for one in chromium.said if "415" not in one] == []


def test_the_page_asks_for_the_token_and_says_when_it_is_not_sure(server, chromium):
    chromium.open(f"{server.url}/?again")
    until = time.monotonic() + 10
    while chromium.run("document.activeElement.id") != "token":
        assert time.monotonic() < until
    chromium.run(f"document.activeElement.value = {TOKEN!r}")
    chromium.press("Enter")
    while "3 classes" not in chromium.run("document.querySelector('#model').textContent"):
        assert time.monotonic() < until
    assert not chromium.run("document.querySelector('#access').checkVisibility()")
    chromium.press("Tab")
    chromium.run("""show({label: 'unknown', withheld_label: 'red', top:
        [{label: '<b>red</b>', probability: 0.4}, {label: 'blue', probability: 0.3}]},
        (take([new File([], 'a')]), document.querySelector('#cards > li')))""")
    card = chromium.run(CARDS)[0]
    assert (card["heading"], card["state"]) == ("Not sure", "unsure")
    assert "<b>red</b>40.0\xa0%" in card["text"]
    assert card["bars"] == [0.4, 0.3]


# --- the end -------------------------------------------------------------------------------------


def test_sigterm_loses_no_accepted_request(server, pictures):
    """Clients send one request after another, half of them on one connection, until refused."""
    lost, answered, is_stopping = [], [], Event()
    body = pictures[0].read_bytes()

    def client(number):
        connection = server.connect()
        while True:
            is_new = connection.sock is None
            try:
                if is_new:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                connection.request("POST", "/predict", body, {"authorization": f"Bearer {TOKEN}"})
                response = connection.getresponse()
                response.read()  # closes the connection if the server asks for it
                answered.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                # The system resets connections that wait to be accepted when a server ends.
                if not (
                    is_stopping.is_set() and is_new and isinstance(error, ConnectionResetError)
                ):
                    lost.append(error)
            if number % 2:
                connection.close()

    with ThreadPoolExecutor(16) as pool:
        running = [pool.submit(client, number) for number in range(16)]
        while len(answered) < 20:
            time.sleep(0.01)
        is_stopping.set()
        server.process.send_signal(signal.SIGTERM)
        for one in running:
            one.result(timeout=60)
    assert lost == []
    assert {*answered} == {200}
    assert server.process.wait(60) == 0
    assert server.process.stderr == "test_vit answers there; Ctrl-C stops it\n"
