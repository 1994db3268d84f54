"""Published weights: from a hub, from its cache, or an error in seconds; never a random start."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import SMALL_MODEL, Outcome, error_lines, weights_of, write_dataset
from huggingface_hub import constants
from safetensors.torch import save

from swinclf.explain.target import find_target
from swinclf.models.hub import is_available

OWN_MODEL = "vit_tiny_patch16_224"  # which this package builds itself
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WITHIN_S = 30  # "within seconds" on a busy machine


@dataclass
class Hub:
    """A hub that serves one file, well or badly.

    Attributes:
        url: Its address.
        content: The file it serves.
        manner: How: "well", or in which bad way.
        requests: What it was asked, e.g. "GET /timm/...".
    """

    url: str
    content: bytes
    manner: str = "well"
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        if hub.manner == "stalls":
            time.sleep(20)
        if hub.manner == "404":
            return self._send(404, b"{}", with_body)
        if hub.manner == "500":
            return self._send(500, b"internal error", with_body)
        if hub.manner == "html":
            return self._send(200, b"<html>please log in</html>", with_body, kind="text/html")
        if not self.path.endswith("/resolve/main/model.safetensors") and COMMIT not in self.path:
            return self._send(404, b"{}", with_body)
        body = b"x" * len(hub.content) if hub.manner == "garbage" else hub.content
        start = 0
        if with_body and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        if hub.manner == "stops" and with_body:
            self._head(206 if start else 200, body[start:], start, len(body))
            self.wfile.write(body[start : len(body) // 2])
            self.wfile.flush()
            time.sleep(5)
            self.close_connection = True
            return None
        if hub.manner == "half" and with_body:
            self._head(206 if start else 200, body[start:], start, len(body))
            self.wfile.write(body[start : len(body) // 2])
            self.close_connection = True
            return None
        self._head(206 if start else 200, body[start:], start, len(body))
        if with_body:
            self.wfile.write(body[start:])
        return None

    def _head(self, status: int, body: bytes, start: int, size: int) -> None:
        self.send_response(status)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(self.hub.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()

    def _send(self, status: int, body: bytes, with_body: bool, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def published() -> dict[str, bytes]:
    """Weights of two networks as timm publishes them, of random numbers."""
    import timm
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {
            name: save(timm.create_model(name, num_classes=1000).state_dict(), {"format": "pt"})
            for name in (SMALL_MODEL, "test_vit2")
        }


@pytest.fixture
def hub(published: dict[str, bytes]) -> Iterator[Hub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    hub = Hub(f"http://127.0.0.1:{server.server_port}", published[SMALL_MODEL])
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def home(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh HF_HOME that is online, at the test's hub."""
    home = tmp_path / "hf"
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    # This process has read its environment long ago.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Between two attempts, huggingface_hub waits a second.
    patient = SimpleNamespace(sleep=lambda _seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time", patient)
    monkeypatch.setattr("swinclf.models.hub.FIRST_ANSWER_S", 2.0)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    return home


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "colours", per_class=4)


Train = Callable[..., Outcome]


@pytest.fixture
def train(cli: Callable[..., Outcome], data: Path) -> Train:  # noqa: ARG001
    """`train("--model", ...)`: one epoch of a head on published weights."""

    def run(*words: object) -> Outcome:
        started = time.monotonic()
        done = cli("train", data, "--epochs", "1", "--precision", "fp32", *words)
        assert time.monotonic() - started < WITHIN_S
        return done

    return run


def _assert_not_to_be_had(done: Outcome, tmp_path: Path) -> str:
    """An error of three lines with the ways out, and nothing trained; what was found."""
    assert done.code == 1, done.err
    expected, found, hint = error_lines(done)
    assert f"the published weights of '{SMALL_MODEL}'" in expected
    for way in ("--model embedded", "hf download ", "--weights weights", "--no-pretrained"):
        assert way in hint
    assert not list(tmp_path.glob("runs/*"))
    return found


def _assert_backbone(run: Path, published: bytes) -> None:
    from safetensors.numpy import load

    wanted, found = load(published), weights_of(run)
    for name in wanted:
        if not name.startswith("head."):
            assert found[name].tobytes() == wanted[name].tobytes(), name


def test_a_filled_cache_is_used_without_asking(train, home, hub, published, tmp_path):
    assert train("--model", f"{SMALL_MODEL}.r160_in1k").code == 0
    weights = [line for line in hub.requests if line.startswith("GET /timm")]
    assert weights == ["GET /timm/test_vit.r160_in1k/resolve/main/model.safetensors"]
    assert (home / "hub" / "models--timm--test_vit.r160_in1k").is_dir()
    hub.requests.clear()
    hub.manner = "500"
    done = train("--model", SMALL_MODEL)
    assert done.code == 0, done.err
    assert hub.requests == []
    _assert_backbone(tmp_path / done.out.strip(), published[SMALL_MODEL])


def test_an_empty_cache_and_no_network_allowed(train, home, hub, tmp_path, monkeypatch):  # noqa: ARG001
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    found = _assert_not_to_be_had(train("--model", SMALL_MODEL), tmp_path)
    assert "HF_HUB_OFFLINE" in found
    assert hub.requests == []


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"], ids=["refused", "unknown"]
)
def test_a_hub_that_cannot_be_reached(train, home, tmp_path, monkeypatch, endpoint):  # noqa: ARG001
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    _assert_not_to_be_had(train("--model", SMALL_MODEL), tmp_path)


@pytest.mark.parametrize("manner", ["500", "html", "half", "garbage", "stalls", "stops"])
def test_a_hub_that_answers_badly(train, home, hub, tmp_path, monkeypatch, manner):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.manner = manner
    with monkeypatch.context() as patch:
        if manner == "stalls":
            patch.setattr("swinclf.models.hub.FIRST_ANSWER_S", 0.5)
        _assert_not_to_be_had(train("--model", SMALL_MODEL), tmp_path)
    assert hub.requests
    assert not list(home.rglob("model.safetensors")), "nothing that a later run would take"
    hub.manner = "well"
    assert train("--model", SMALL_MODEL).code == 0


def test_a_download_says_how_far_it_is(home, hub, monkeypatch):  # noqa: ARG001
    import torch

    from swinclf.models.hub import find_pretrained
    from swinclf.reporter import Reporter

    said = []

    class Listener(Reporter):
        @contextmanager
        def track(self, task, total, unit="images", done=0):
            said.append((task, total, unit, done))
            yield said.append

    hub.content = save({"numbers": torch.zeros(1_500_000)})
    path = find_pretrained(SMALL_MODEL, "timm/test_vit.r160_in1k", report=Listener())
    assert path.read_bytes() == hub.content
    assert said[0] == ("fetching weights", 6, "MB", 0)
    assert sum(said[1:]) in range(1, 7)


def test_weights_of_another_network_are_refused(train, home, hub, published, tmp_path):  # noqa: ARG001
    hub.content = published["test_vit2"]
    done = train("--model", SMALL_MODEL)
    assert done.code == 1
    expected, _, hint = error_lines(done)
    assert SMALL_MODEL in expected
    assert "--no-pretrained" in hint
    refused = train("--model", SMALL_MODEL, "--model-arg", "deepth=2")
    assert "other values of --model-arg" in error_lines(refused)[2]
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        (("--model", "test_vut"), "test_vit"),
        (("--model", "test_vit.r160_in1l"), "test_vit.r160_in1k"),
        (("--model", "swin_tinny_patch4_window7_224"), "swin_tiny_patch4_window7_224"),
        (("--model", "timm/test_vit"), ""),
        (("--weights", "weigths.safetensors"), "weights.safetensors"),
        (("--weights", "nowhere/at/all"), ""),
    ],
)
def test_a_typo_never_touches_the_network(train, home, hub, tmp_path, words, guess):  # noqa: ARG001
    (tmp_path / "weights.safetensors").write_bytes(b"")
    done = train(*words)
    assert done.code == 1
    assert guess in error_lines(done)[2]
    assert hub.requests == []
    assert not list(tmp_path.glob("runs/*"))


def test_random_weights_and_weights_from_a_file_ask_nobody(train, home, hub, trained):  # noqa: ARG001
    for words in (("--model", SMALL_MODEL, "--no-pretrained"), ("--weights", trained.path)):
        assert train(*words, "--img-size", "32").code == 0
    assert hub.requests == []


def test_a_file_in_timms_format_is_a_start(train, hub, home, published, tmp_path):  # noqa: ARG001
    path = tmp_path / "downloaded.safetensors"
    path.write_bytes(published[SMALL_MODEL])
    done = train("--model", SMALL_MODEL, "--weights", path)
    assert done.code == 0, done.err
    _assert_backbone(tmp_path / done.out.strip(), published[SMALL_MODEL])
    refused = train("--model", "test_vit2", "--weights", path)
    assert refused.code == 1
    assert "exactly the tensors" in error_lines(refused)[0]


def test_published_weights_are_inspected(home, hub):  # noqa: ARG001
    """As the same weights from a file; nothing unasked goes over the network."""
    import timm
    import torch

    wanted = timm.create_model(OWN_MODEL)
    hub.content = save(wanted.state_dict(), {"format": "pt"})
    subject = find_target(OWN_MODEL, None, {})
    subject.open(None, pretrained=False)
    assert hub.requests == []
    shown, whose = subject.open(None, pretrained=True)
    assert any(line.startswith(f"GET /timm/{OWN_MODEL}") for line in hub.requests)
    assert whose == "the published weights"
    assert torch.equal(shown.blocks[3].attn.qkv.weight, wanted.blocks[3].attn.qkv.weight)


# --- whether it can be reached at all -----------------------------------------------------------

DEFAULT_REPOSITORY = "timm/swin_tiny_patch4_window7_224.ms_in1k"


@pytest.fixture
def ask(home: Path, hub: Hub) -> Iterator[Callable[[], bool]]:  # noqa: ARG001
    """`ask()`: whether the default's published weights can be had."""
    is_available.cache_clear()
    yield lambda: is_available(DEFAULT_REPOSITORY)
    is_available.cache_clear()


def test_a_hub_that_answers_is_asked_once(ask: Callable[[], bool], hub: Hub) -> None:
    assert ask()
    assert ask()
    assert hub.requests == [f"HEAD /{DEFAULT_REPOSITORY}/resolve/main/model.safetensors"]


@pytest.mark.parametrize("manner", ["500", "404", "stalls"])
def test_a_hub_that_does_not_answer_well_is_given_up(
    ask: Callable[[], bool], hub: Hub, manner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swinclf.models.hub.REACHABLE_S", 0.3 if manner == "stalls" else 3.0)
    hub.manner = manner
    started = time.monotonic()
    assert not ask()
    assert time.monotonic() - started < WITHIN_S / 2


def test_the_default_is_not_replaced_where_the_hub_answers(
    cli: Callable[..., Outcome],
    data: Path,
    ask: Callable[[], bool],  # noqa: ARG001
    hub: Hub,
) -> None:
    done = cli("train", data, "--epochs", "1")
    assert done.code == 1
    assert "embedded" not in done.err
    assert "the Hub is unreachable" not in done.err
    assert any(DEFAULT_REPOSITORY in request for request in hub.requests)
