"""Published weights: from the Hub's cache, else from the Hub, within a deadline.

A download runs in a process of its own: that is the one thing that can be ended for certain,
whatever the server at the other end does. It ends where the whole takes too long, and much sooner
where next to nothing comes; a download that failed leaves nothing in the cache. Nothing here is
called unless pretrained weights were asked for by a name that exists.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from safetensors import safe_open

from swinclf.errors import ConfigError, WeightsError
from swinclf.progress import SILENT, Reporter

DEADLINE_VARIABLE = "SWINCLF_HUB_DEADLINE_S"
DEFAULT_DEADLINE_S = 1800.0  # for a whole download
STALL_VARIABLE = "SWINCLF_HUB_STALL_S"
DEFAULT_STALL_S = 60.0  # for `STALL_BYTES` of it: a byte a second is no progress
STALL_BYTES = 64 * 1024
FIRST_ANSWER_S = 10.0
REACHABLE_S = 3.0  # for the question whether the Hub can be reached at all
LOOK_EVERY_S = 0.2
SHA256_LENGTH = 64  # hexadecimal digits


def find_pretrained(
    name: str,
    repository: str | None,
    filename: str | None = None,
    *,
    report: Reporter = SILENT,
) -> Path:
    """The file with a backbone's published weights, downloaded if it is not in the cache.

    Args:
        name: ARCH or ARCH.TAG, for the errors.
        repository: Where they are at the Hub; None where there are none.
        filename: Their file there; None for the usual one.
        report: Told of a download before it begins, and how far it is.

    Raises:
        WeightsError: If there are none, or they can be had neither from the cache nor from the Hub.
        ConfigError: If a deadline in the environment is no number of seconds.
    """
    if not repository:
        raise WeightsError(
            f"published weights for '{name}'",
            found="none at the Hub",
            hint="--no-pretrained, --weights FILE, or another of: swinclf models",
        )
    filename = filename or "model.safetensors"
    cached = _from_cache(repository, filename)
    if cached is not None:
        return cached
    if _is_offline():
        raise _not_to_be_had(name, "none in the cache, and HF_HUB_OFFLINE is set")
    report.note(f"fetching the published weights from the Hub, once: {repository}")
    return _download(name, repository, filename, report)


@functools.cache
def can_be_had(repository: str, filename: str = "model.safetensors") -> bool:
    """Return whether published weights are in the cache, or the Hub says that it has them.

    The Hub is asked once in a process and gets `REACHABLE_S` to answer; nothing is downloaded.

    Args:
        repository: Where they are at the Hub.
        filename: Their file there.
    """
    if _from_cache(repository, filename) is not None:
        return True
    if _is_offline():
        return False
    answers: list[bool] = []

    def ask() -> None:
        from huggingface_hub import get_session, hf_hub_url

        with suppress(Exception):  # refused, no route, no certificate: not to be had
            url = hf_hub_url(repository, filename)
            # The bare request: the library's own functions send others beside it.
            answer = get_session().head(url, timeout=REACHABLE_S)
            answers.append(answer.status_code < 400)

    # A thread, since looking up a name has no time limit of its own.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACHABLE_S)
    return any(answers)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_cache(repository: str, filename: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, filename)
    return Path(cached) if isinstance(cached, str) else None


def _download(name: str, repository: str, filename: str, report: Reporter) -> Path:
    deadline_s = _seconds(DEADLINE_VARIABLE, DEFAULT_DEADLINE_S)
    stall_s = min(_seconds(STALL_VARIABLE, DEFAULT_STALL_S), deadline_s)
    environment = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONIOENCODING": "utf-8:surrogateescape",  # on Windows a pipe has an older code page
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as files:
        out, errors = Path(folder) / "out", Path(folder) / "errors"
        process = subprocess.Popen(
            [sys.executable, "-m", "swinclf.models.hub", repository, filename],
            env={**os.environ, **environment},
            stdout=files.enter_context(out.open("wb")),
            stderr=files.enter_context(errors.open("wb")),
        )
        try:
            _follow(process, out, repository, deadline_s, stall_s, report)
        except TimeoutError as error:
            raise _not_to_be_had(name, str(error)) from error
        finally:
            process.kill()
            process.wait()
            for unfinished in _unfinished(repository):  # it may be anything: never to be built on
                unfinished.unlink(missing_ok=True)
        if process.returncode == 0:
            printed = out.read_bytes().split(b"\n")[-1]
            return Path(printed.decode("utf-8", "surrogateescape"))
        reason = errors.read_bytes().split(b"\n")[-1].decode(errors="replace")
        raise _not_to_be_had(name, f"none in the cache, and the Hub cannot be asked: {reason}")


def _follow(
    process: subprocess.Popen[bytes],
    out: Path,
    repository: str,
    deadline_s: float,
    stall_s: float,
    report: Reporter,
) -> None:
    """Waits for a download and tells how far it is.

    Raises:
        TimeoutError: If it takes too long, or next to nothing comes.
    """
    started = marked_at = time.monotonic()
    marked = told = 0
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_EVERY_S)
            received, now = _received(repository), time.monotonic()
            if received >= marked + STALL_BYTES:
                marked, marked_at = received, now
            if now - started > deadline_s:
                raise TimeoutError(f"no answer within {deadline_s:g} s ({DEADLINE_VARIABLE})")
            if now - marked_at > stall_s:
                raise TimeoutError(
                    f"no answer within {stall_s:g} s ({STALL_VARIABLE}), {received:,} bytes so far"
                )
            if received and advance is None:
                size = int(out.read_bytes().split(b"\n")[0] or 0)
                track = report.track("fetching weights", round(size / 1e6) or None, unit="MB")
                advance = stack.enter_context(track)
            if advance is not None and received // 1_000_000 > told:
                advance(received // 1_000_000 - told)
                told = received // 1_000_000


def _seconds(variable: str, default: float) -> float:
    """A time from the environment.

    Raises:
        ConfigError: If it is no number above 0.
    """
    text = os.environ.get(variable, "").strip() or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(
            f"a number of seconds in {variable}",
            found=repr(text),
            hint=f"{variable}={default:g}, or leave it out",
        )
    return value


def _unfinished(repository: str) -> list[Path]:
    """The parts of a download in the cache."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "blobs"
    return list(folder.glob("*.incomplete"))


def _received(repository: str) -> int:
    """Bytes of a download that have come."""
    total = 0
    for part in _unfinished(repository):
        with suppress(OSError):  # it is whole now and has its own name
            total += part.stat().st_size
    return total


def _not_to_be_had(name: str, why: str) -> WeightsError:
    return WeightsError(
        f"the published weights of '{name}'",
        found=why,
        hint="--weights FILE; or run once where there is a network and copy its HF_HOME folder "
        "here; or start from random weights: --no-pretrained",
    )


def _download_here(repository: str, filename: str) -> str:
    """Downloads in this process; asks for the size first, once: a dead network shows there."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    constants.DOWNLOAD_CHUNK_SIZE = STALL_BYTES  # what has come is to be seen
    facts = get_hf_file_metadata(hf_hub_url(repository, filename), timeout=FIRST_ANSWER_S)
    sys.stdout.write(f"{facts.size or 0}\n")
    sys.stdout.flush()
    path = Path(hf_hub_download(repository, filename))
    try:
        _check_content(path, facts.etag or "")
    except Exception:
        path.resolve().unlink()  # the cache would give it out for good
        path.unlink(missing_ok=True)
        raise
    return str(path)


def _check_content(path: Path, etag: str) -> None:
    """Refuses a file that is not what the Hub names; the cache itself looks at sizes alone.

    Args:
        path: What came.
        etag: The sha256 of a large file's content; of others, something else.

    Raises:
        ValueError, SafetensorError: If it is another content, or no file of tensors.
    """
    if len(etag) == SHA256_LENGTH:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != etag:
            raise ValueError(f"a damaged file came (sha256 {found[:12]}, not {etag[:12]})")
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np"):
            pass


def _main() -> int:
    try:
        sys.stdout.write(_download_here(*sys.argv[1:3]))
    except Exception as error:  # the parent process tells the user; here is only the reason
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        sys.stderr.write(f"\n{type(error).__name__}: {reason}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
