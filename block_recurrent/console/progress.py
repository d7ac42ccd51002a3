"""Tells a person how far a training or a preparation is."""

import io
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
)
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 5
SECONDS_BETWEEN_FRAMES = 0.2


class Progress:
    """Tells a person how the run goes: a bar in a terminal, else a line at each `update`.

    Use it as a context, so that the terminal gets its cursor back whatever happens.

    Args:
      num_steps: of the whole run.
      first_step: steps done before, by the runs that this one continues.
      stream: where to print; None: standard output.
      clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        num_steps: int,
        first_step: int = 0,
        *,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._num_steps, self._first_step = num_steps, first_step
        self._stream = stream or sys.stdout
        self._clock, self._started = clock, clock()
        columns = "step", MofNCompleteColumn(), BarColumn(20)
        self._bar = start_bar(self._stream, *columns, total=num_steps, completed=first_step)

    def update(self, step: int, metrics: Mapping[str, Any]):
        """Shows "loss", "bits_per_byte" and "tokens_per_second", those that there are."""
        numbers = "  ".join([*describe(metrics), *self._time_left(step)])
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, numbers=numbers)
        else:
            width = len(str(self._num_steps))
            self.note(f"step {step:>{width}}/{self._num_steps}  {numbers}")

    def note(self, text: str):
        """Prints a line, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def close(self):
        """Takes the bar away."""
        if self._bar:
            self._bar.stop()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _time_left(self, step: int) -> list[str]:
        done = step - self._first_step
        if done <= 0:
            return []
        seconds = (self._clock() - self._started) / done * (self._num_steps - step)
        return [f"{duration(seconds)} left"]


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


def start_bar(
    stream: io.TextIOBase, *columns: ProgressColumn | str, total: int, completed: int = 0
) -> Bar | None:
    """A bar with a last column for `numbers`, its one task begun; None where no terminal is."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    numbers = TextColumn("{task.fields[numbers]}")
    bar = Bar(*columns, numbers, console=Console(file=stream), transient=True)
    bar.add_task("", total=total, completed=completed, numbers="")
    bar.start()
    return bar


def describe(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics a person watches, as "loss 2.310"."""
    formats = {
        "loss": "loss {:.3f}",
        "bits_per_byte": "{:.3f} bits/byte",
        "tokens_per_second": "{:,.0f} tokens/s",
    }
    return [text.format(metrics[name]) for name, text in formats.items() if name in metrics]


def duration(seconds: float) -> str:
    """As "45 s", "4 min 05 s" or "2 h 07 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
