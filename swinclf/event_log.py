"""events.jsonl: what happened in a training, for programs; one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from swinclf.files import append_line, json_text
from swinclf.reporter import ForwardingReporter, Reporter
from swinclf.run_folder import RunClaim

EVENTS = "events.jsonl"


class EventLog(ForwardingReporter):
    """A reporter that also appends what it receives to events.jsonl of a run."""

    def __init__(self, reporter: Reporter, claim: RunClaim) -> None:
        super().__init__(reporter)
        self._claim = claim

    def _observe(self, kind: str, text: str, values: Mapping[str, object]) -> None:  # noqa: ARG002
        """Append a line; a full disk must not end a training."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        # JSON has no NaN, which a loss can be; in ASCII, for `append_line`.
        valid = json.loads(json_text(values))
        line = json.dumps({"time": time, "event": kind, **valid})
        with suppress(OSError):
            append_line(self._claim.run.path / EVENTS, line)
