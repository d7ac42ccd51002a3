"""Tells a person how far the preparation of a store is."""

import io
import sys
import time
from collections.abc import Callable

from rich.progress import BarColumn, TaskProgressColumn

from block_recurrent.metrics_log import duration, start_bar

SECONDS_BETWEEN_LINES = 5
SECONDS_BETWEEN_FRAMES = 0.2


class PrepareProgress:
    """A bar in a terminal, else a line every few seconds.

    Use it as a context, so that the terminal gets its cursor back whatever happens.

    Args:
      stream: where to print; None: standard output.
      clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        *,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = stream or sys.stdout
        self._clock, self._started = clock, clock()
        self._bar = start_bar(self._stream, TaskProgressColumn(), BarColumn(20), total=1)
        self._pause = SECONDS_BETWEEN_FRAMES if self._bar else SECONDS_BETWEEN_LINES
        self._next = self._started + self._pause

    def update(self, documents: int, tokens: int, share: float):
        """Shows what this process and those that it has started have written.

        Args:
          documents: up to now.
          tokens: up to now.
          share: of all that they have to do, from 0 to 1.
        """
        now = self._clock()
        if now < self._next or not tokens:
            return
        self._next = now + self._pause
        seconds = now - self._started
        numbers = [f"{documents:,} documents", f"{tokens:,} tokens"]
        numbers.append(f"{tokens / max(seconds, 1e-3):,.0f} tokens/s")
        if share > 0:
            numbers.append(f"{duration(seconds * (1 - share) / share)} left")
        text = "  ".join(numbers)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=share, numbers=text)
        else:
            print(f"{share:4.0%}  {text}", file=self._stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar:
            self._bar.stop()
