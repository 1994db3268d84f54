"""Counters of the server, in the text format of Prometheus; with memory and CPU time on Linux."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class ServeCounters:
    """Counters of requests, images and batches."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "swinclf_requests", "Requests by HTTP status.", ["status"], registry=registry
        )
        self._seconds = Histogram(
            "swinclf_request_seconds", "Time to answer a request.", registry=registry
        )
        self._images = Counter("swinclf_images", "Images by result.", ["result"], registry=registry)
        self._batches = Histogram(
            "swinclf_batch_images", "Images of a batch.", buckets=BATCH_SIZES, registry=registry
        )
        self._waiting = Gauge(
            "swinclf_waiting_images", "Images decoded, computed or waiting.", registry=registry
        )

    def count_request(self, status: int, seconds: float) -> None:
        """Count a request that has been answered."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def count_image(self, *, is_readable: bool) -> None:
        """Count an image that has been answered."""
        self._images.labels("predicted" if is_readable else "unreadable").inc()

    def count_batch(self, images: int) -> None:
        """Count a batch that has been computed."""
        self._batches.observe(images)

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Ask for the number of waiting images whenever the counters are read."""
        self._waiting.set_function(count)

    def text(self) -> bytes:
        """Return all counters, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
