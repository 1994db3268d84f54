"""events.jsonl: what happened in a training, for programs; one JSON object a line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from swinclf.files import append_line
from swinclf.reporter import EpochRow, ForwardingReporter, Reporter
from swinclf.run_folder import RunClaim

EVENTS = "events.jsonl"


class EventLog(ForwardingReporter):
    """A reporter that also appends what it receives to events.jsonl of a run."""

    def __init__(self, reporter: Reporter, claim: RunClaim) -> None:
        super().__init__(reporter)
        self._claim = claim

    def note(self, text: str) -> None:
        """Append a note."""
        self._append("note", {"text": text})
        super().note(text)

    def detail(self, text: str) -> None:
        """Append a detail."""
        self._append("detail", {"text": text})
        super().detail(text)

    def warn(self, text: str) -> None:
        """Append a warning."""
        self._append("warning", {"text": text})
        super().warn(text)

    def record(self, kind: str, values: Mapping[str, object]) -> None:
        """Append the plan or the result."""
        self._append(kind, values)
        super().record(kind, values)

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Append an epoch."""
        figures = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in asdict(row).items()
        }
        self._append("epoch", {**figures, "epochs": total, "best": best})
        super().epoch(row, total=total, best=best)

    def _append(self, event: str, values: Mapping[str, object]) -> None:
        """Append a line; a full disk must not end a training."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": event, **values})
        with suppress(OSError):
            append_line(self._claim.run.path / EVENTS, line)
