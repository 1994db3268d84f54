"""Published weights: from the Hub's cache, else from the Hub.

huggingface_hub downloads. It gives up a server that answers nothing for HF_HUB_DOWNLOAD_TIMEOUT
seconds, six times in a row, and goes on with an unfinished download the next time. The finished
file is compared with the checksum that the Hub names: the cache itself compares sizes alone.
Nothing here is called unless pretrained weights were asked for by a name that exists.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open

from swinclf.errors import WeightsError
from swinclf.reporter import SILENT, Reporter

FIRST_ANSWER_S = 10.0
REACHABLE_S = 3.0  # for the question whether the Hub can be reached at all
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
    try:
        return _download(repository, filename, report)
    except Exception as error:  # of the library, of what it downloads with, or of the disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = f"none in the cache, and the Hub cannot be asked: {type(error).__name__}: {reason}"
        raise _not_to_be_had(name, why) from error


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


def _download(repository: str, filename: str, report: Reporter) -> Path:
    """Download a file into the cache, and take it out again where it is not the one asked for."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils.tqdm import tqdm

    class Progress(tqdm):
        """The library's progress bar, of which nothing is seen but what `report` makes of it."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]
            size_mb = round((self.total or 0) / 1e6) or None
            self.advance = shown.enter_context(report.track("fetching weights", size_mb, unit="MB"))
            self.received = 0

        def update(self, n: float | None = 1) -> bool | None:
            """Report whole megabytes."""
            before, self.received = self.received, self.received + int(n or 0)
            self.advance(self.received // 1_000_000 - before // 1_000_000)
            return None

    # Asked before the download, which retries for a minute: a dead network shows here at once.
    facts = get_hf_file_metadata(hf_hub_url(repository, filename), timeout=FIRST_ANSWER_S)
    with ExitStack() as shown:
        path = Path(
            hf_hub_download(repository, filename, etag_timeout=FIRST_ANSWER_S, tqdm_class=Progress)
        )
    try:
        _check_content(path, facts.etag or "")
    except Exception:
        path.resolve().unlink()  # the cache would give it out for good
        path.unlink(missing_ok=True)
        raise
    return path


def _not_to_be_had(name: str, why: str) -> WeightsError:
    return WeightsError(
        f"the published weights of '{name}'",
        found=why,
        hint="--weights FILE; or run once where there is a network and copy its HF_HOME folder "
        "here; or start from random weights: --no-pretrained",
    )


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
