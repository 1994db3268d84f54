"""Estimate of the time left in a training, from its first steps and then from its epochs."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

WARMUP_STEPS = 3  # are slower: memory is new, and the reader threads have only started
MIN_STEPS = 10  # before the first estimate
MIN_LATER, RECENT_STEPS = 3, 100  # steps of a later epoch, without its first, that are enough
MIN_S = 1.0  # before an estimate is announced: steps of milliseconds are irregular


class TimeEstimate:
    """The time left for all epochs, of `steps` steps each.

    A validation takes as long as `val_steps` steps until two have been measured, or as the first
    one if that was faster. `announce` is called once, with the first estimate in seconds.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        val_steps: float,
        announce: Callable[[float], None],
    ) -> None:
        self._epochs, self._steps, self._val_steps = epochs, steps, val_steps
        self._announce = announce
        self._step_count, self._step_sum = 0, 0.0  # the sum is without the first ones
        # of this epoch, without its first one
        self._later_steps_s = deque[float](maxlen=RECENT_STEPS)
        self._is_first_step = True
        self._val_s: list[float] = []  # of each validation
        self._epoch_s: list[float] = []  # of each whole epoch here
        self._is_whole = True
        self._started = self._epoch_started = self._last = time.perf_counter()
        self._is_announced = False

    def begin_epoch(self, step: int) -> None:
        """Note the start of an epoch, in a resumed training at a later step than 0."""
        self._is_whole = step == 0
        self._later_steps_s.clear()
        self._is_first_step = True
        self._epoch_started = self._last = time.perf_counter()

    def after_step(self, epoch: int, step: int) -> float | None:
        """Return the seconds left after `step` steps of an epoch (from 0); None if unknown."""
        now = time.perf_counter()
        self._step_count += 1
        if not self._is_first_step:
            self._later_steps_s.append(now - self._last)
        self._is_first_step = False
        if self._step_count > WARMUP_STEPS:
            self._step_sum += now - self._last
        self._last = now
        least_steps = WARMUP_STEPS + 1 if self._epoch_s else MIN_STEPS
        if self._step_count < least_steps:
            return None
        left = self._seconds_of_epoch() * (self._epochs - epoch - 1)
        left += (self._steps - step) * self._step_s() + self._seconds_of_validation()
        is_reliable = self._step_count >= MIN_STEPS and now - self._started >= MIN_S
        if is_reliable and not self._is_announced:
            self._is_announced = True
            self._announce(left)
        return left

    def end_epoch(self) -> None:
        """Note the end of an epoch, after its validation."""
        now = time.perf_counter()
        self._val_s.append(now - self._last)
        if self._is_whole:
            self._epoch_s.append(now - self._epoch_started)

    def _seconds_of_epoch(self) -> float:
        """Return the duration of a later epoch: the first one is slower, as images are decoded."""
        later = self._epoch_s[1:][-5:]
        if later:
            return math.fsum(later) / len(later)
        return self._steps * self._step_s() + self._seconds_of_validation()

    def _seconds_of_validation(self) -> float:
        if len(self._val_s) > 1:
            return self._val_s[-1]
        return min([*self._val_s, self._val_steps * self._step_s()])

    def _step_s(self) -> float:
        """Return the duration of a step; in the first epoch here, images are decoded."""
        if self._val_s and len(self._later_steps_s) >= MIN_LATER:
            return statistics.median(self._later_steps_s)
        return self._step_sum / max(1, self._step_count - WARMUP_STEPS)
