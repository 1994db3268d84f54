"""Published weights: from the Hub's cache, else from the Hub, within a deadline.

A download runs in a process of its own: that is the one thing that can be ended for certain,
whatever the server at the other end does. Nothing here is called unless pretrained weights were
asked for by a name that exists.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from swinclf.errors import WeightsError

DEADLINE_VARIABLE = "SWINCLF_HUB_DEADLINE_S"
DEFAULT_DEADLINE_S = 1800.0
FIRST_ANSWER_S = 10.0


def find_pretrained(name: str, pretrained_cfg: Any) -> Path:
    """The file with a backbone's published weights, downloaded if it is not in the cache.

    Args:
        name: ARCH or ARCH.TAG, known to timm.
        pretrained_cfg: timm's description of the weights.

    Raises:
        WeightsError: If there are none, or they can be had neither from the cache nor from the Hub.
    """
    repository = getattr(pretrained_cfg, "hf_hub_id", None)
    if not repository:
        raise WeightsError(
            f"published weights for '{name}'",
            found="none at the Hub",
            hint="--no-pretrained, --weights FILE, or another of: swinclf models",
        )
    filename = getattr(pretrained_cfg, "hf_hub_filename", None) or "model.safetensors"
    return _from_cache(repository, filename) or _download(name, repository, filename)


def _from_cache(repository: str, filename: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(repository, filename)
    return Path(cached) if isinstance(cached, str) else None


def _download(name: str, repository: str, filename: str) -> Path:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _not_to_be_had(name, "none in the cache, and HF_HUB_OFFLINE is set")
    deadline_s = float(os.environ.get(DEADLINE_VARIABLE, DEFAULT_DEADLINE_S))
    command = [sys.executable, "-m", "swinclf.models.hub", repository, filename]
    try:
        done = subprocess.run(
            command,
            timeout=deadline_s,
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

    get_hf_file_metadata(hf_hub_url(repository, filename), timeout=FIRST_ANSWER_S)
    return str(hf_hub_download(repository, filename))


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
