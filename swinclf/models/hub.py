"""Published weights: from the Hub's cache, else from the Hub, within a deadline.

A download runs in a process of its own: that is the one thing that can be ended for certain,
whatever the server at the other end does. Nothing here is called unless pretrained weights were
asked for by a name that exists.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open

from swinclf.errors import WeightsError

DEADLINE_VARIABLE = "SWINCLF_HUB_DEADLINE_S"
DEFAULT_DEADLINE_S = 1800.0
FIRST_ANSWER_S = 10.0
SHA256_LENGTH = 64  # hexadecimal digits


def find_pretrained(
    name: str,
    repository: str | None,
    filename: str | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """The file with a backbone's published weights, downloaded if it is not in the cache.

    Args:
        name: ARCH or ARCH.TAG, for the errors.
        repository: Where they are at the Hub; None where there are none.
        filename: Their file there; None for the usual one.
        say: Told of a download before it begins.

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
    say(f"fetching the published weights from the Hub, once: {repository}")
    return _download(name, repository, filename)


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_cache(repository: str, filename: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, filename)
    return Path(cached) if isinstance(cached, str) else None


def _download(name: str, repository: str, filename: str) -> Path:
    deadline_s = float(os.environ.get(DEADLINE_VARIABLE, DEFAULT_DEADLINE_S))
    command = [sys.executable, "-m", "swinclf.models.hub", repository, filename]
    try:
        done = subprocess.run(
            command,
            timeout=deadline_s,
            env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _not_to_be_had(
            name, f"no answer within {deadline_s:g} s ({DEADLINE_VARIABLE})"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise _not_to_be_had(
            name, f"none in the cache, and the Hub cannot be asked: {lines[-1] if lines else '?'}"
        )
    return Path(done.stdout.strip())


def _not_to_be_had(name: str, why: str) -> WeightsError:
    return WeightsError(
        f"the published weights of '{name}'",
        found=why,
        hint="--weights FILE; or run once where there is a network and copy its HF_HOME folder "
        "here; or start from random weights: --no-pretrained",
    )


def _download_here(repository: str, filename: str) -> str:
    """Downloads in this process; asks for the size first, once: a dead network shows there."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    facts = get_hf_file_metadata(hf_hub_url(repository, filename), timeout=FIRST_ANSWER_S)
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
        sys.stderr.write(f"\n{type(error).__name__}: {reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
