"""Published weights: from the cache of the Hugging Face Hub, or downloaded.

huggingface_hub gives up an unresponsive server after HF_HUB_DOWNLOAD_TIMEOUT seconds, six times in
a row, and resumes unfinished downloads. The file is compared with the checksum of the Hub, as the
cache itself compares sizes only. Nothing is downloaded unless pretrained weights are requested by
an existing name.
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
REACHABLE_S = 3.0  # timeout of the check whether the Hub can be reached
SHA256_LENGTH = 64  # hexadecimal digits


def find_pretrained(
    name: str,
    repository: str | None,
    filename: str | None = None,
    *,
    report: Reporter = SILENT,
) -> Path:
    """Return the file of a backbone's published weights, downloaded if it is not in the cache.

    `name` is for error messages. `repository` is None if there is none on the Hub, `filename` for
    the usual one.

    Raises:
        WeightsError: If there are none, or neither the cache nor the Hub has them.
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
        why = "none in the cache, and HF_HUB_OFFLINE is set"
        raise _unavailable(name, repository, filename, why)
    report.note(f"fetching the published weights from the Hub, once: {repository}")
    try:
        return _download(repository, filename, report)
    except Exception as error:  # of huggingface_hub, its HTTP library, or the disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        why = f"none in the cache, and the Hub is unreachable: {type(error).__name__}: {reason}"
        raise _unavailable(name, repository, filename, why) from error


@functools.cache
def is_available(repository: str, filename: str = "model.safetensors") -> bool:
    """Return whether published weights are in the cache or on the Hub.

    The Hub is asked once per process with a timeout of `REACHABLE_S`; nothing is downloaded.
    """
    if _from_cache(repository, filename) is not None:
        return True
    if _is_offline():
        return False
    answers: list[bool] = []

    def ask() -> None:
        from huggingface_hub import get_session, hf_hub_url

        with suppress(Exception):  # refused, no route, no certificate: not available
            url = hf_hub_url(repository, filename)
            # A bare request: the library's own functions send others as well.
            answer = get_session().head(url, timeout=REACHABLE_S)
            answers.append(answer.status_code < 400)

    # A thread, since a DNS lookup has no timeout of its own.
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
    """Download a file into the cache, and delete it again if its content is wrong."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.utils.tqdm import tqdm

    class Progress(tqdm):
        """Adapter from the library's progress bar to `report`."""

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

    # Asked before the download, which retries for a minute, to fail fast without a network.
    facts = get_hf_file_metadata(hf_hub_url(repository, filename), timeout=FIRST_ANSWER_S)
    with ExitStack() as shown:
        path = Path(
            hf_hub_download(repository, filename, etag_timeout=FIRST_ANSWER_S, tqdm_class=Progress)
        )
    try:
        _check_content(path, facts.etag or "")
    except Exception:
        path.resolve().unlink()  # otherwise the cache would keep returning it
        path.unlink(missing_ok=True)
        raise
    return path


def _unavailable(name: str, repository: str, filename: str, why: str) -> WeightsError:
    return WeightsError(
        f"the published weights of '{name}'",
        found=why,
        hint="--model embedded, which needs no download; or on a machine with a network: "
        f"hf download {repository} {filename} config.json --local-dir weights, and here: "
        "--weights weights; or start from random weights: --no-pretrained",
    )


def _check_content(path: Path, etag: str) -> None:
    """Refuse a file whose content differs from that of the Hub.

    `etag` is the sha256 of a large file; something else for others.

    Raises:
        ValueError, SafetensorError: If the content differs, or is not a safetensors file.
    """
    if len(etag) == SHA256_LENGTH:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != etag:
            raise ValueError(
                f"the downloaded file is damaged (sha256 {found[:12]}, not {etag[:12]})"
            )
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np"):
            pass
