"""Progress of training, evaluation or `prepare_data`: a bar in a terminal, else lines of text."""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

from block_recurrent.console.lossy import lossy_mark
from block_recurrent.console.working_time import working_seconds

SECONDS_BETWEEN_LINES = 5
SECONDS_BETWEEN_FRAMES = 0.2


class _Display:
    """Shows numbers next to a bar in a terminal, or in lines of text elsewhere.

    Use it as a context manager, which restores the terminal's cursor after an exception.

    Args:
      columns: columns of the bar before the numbers.
      total: value of `completed` at the end.
      completed: value of `completed` at the start.
      stream: where to print; None: standard output.
      clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        columns: Sequence[ProgressColumn | str],
        total: int,
        completed: int,
        stream: io.TextIOBase | None,
        clock: Callable[[], float],
    ):
        self._stream = stream or sys.stdout
        self._clock, self._started = clock, clock()
        self._bar = start_bar(self._stream, *columns, total=total, completed=completed)

    def note(self, text: str):
        """Prints a line, above the bar if there is one."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._bar:
            self._bar.stop()

    def _show(self, completed: int | float, numbers: list[str], line_start: str = ""):
        """Updates the bar, or prints a line that starts with `line_start`."""
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=completed, numbers="  ".join(numbers))
        else:
            self.note("  ".join(filter(None, [line_start, *numbers])))


class Progress(_Display):
    """Progress of a training run; without a terminal, one line per `update`.

    Args:
      num_steps: number of steps of the whole run.
      first_step: number of steps already done, before this run was continued.
      stream: where to print; None: standard output.
      clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        num_steps: int,
        first_step: int = 0,
        *,
        stream: io.TextIOBase | None = None,
        clock: Callable[[], float] = working_seconds,
    ):
        columns = "step", MofNCompleteColumn(), BarColumn(20)
        super().__init__(columns, num_steps, first_step, stream, clock)
        self._num_steps, self._numbers = num_steps, []

    def update(self, step: int, metrics: Mapping[str, Any], seconds_left: float):
        """Shows "loss", "bits_per_byte" and "tokens_per_second", if they are in `metrics`.

        Bits per byte are marked if "text_lost" says that the vocabulary is lossy.

        Args:
          step: number of steps done.
          metrics: name → number.
          seconds_left: the expected time to the end of the run.
        """
        mark = " (not comparable)" if lossy_mark(metrics) else ""
        formats = {
            "loss": "loss {:.3f}",
            "bits_per_byte": f"{{:.3f}} bits/byte{mark}",
            "tokens_per_second": "{:,.0f} tokens/s",
        }
        numbers = [text.format(metrics[name]) for name, text in formats.items() if name in metrics]
        self._numbers = [*numbers, f"{duration(seconds_left)} left"]
        self._show(step, self._numbers, self._line_start(step))

    @contextlib.contextmanager
    def evaluation(self, step: int) -> Iterator[Callable[[str, int, int], None]]:
        """Yields a function that shows the progress of an evaluation; see `EvaluationPace`."""
        pace = EvaluationPace(bool(self._bar), self._clock)

        def show(what: str, done: int, total: int):
            if numbers := pace.numbers(what, done, total):
                self._show(step, numbers, self._line_start(step))

        yield show
        if self._bar:
            self._show(step, self._numbers)

    def _line_start(self, step: int) -> str:
        return f"step {step:>{len(str(self._num_steps))}}/{self._num_steps}"


class EvaluationProgress(_Display):
    """Progress of `evaluate`, on standard error; without a terminal, one line every few seconds."""

    def __init__(self):
        super().__init__((BarColumn(20),), 1, 0, sys.stderr, working_seconds)
        self._pace = EvaluationPace(bool(self._bar), self._clock)

    def update(self, what: str, done: int, total: int):
        """Shows the progress, unless the last update was just now; see `EvaluationPace`."""
        if numbers := self._pace.numbers(what, done, total):
            self._show(done / total, numbers)


class EvaluationPace:
    """How fast documents are scored, and how long it will still take.

    The time is measured from the end of the first batch on, which takes longer than the others.

    Args:
      in_terminal: whether the numbers are shown in a bar, which is redrawn often.
      clock: returns seconds, from any origin.
    """

    def __init__(self, in_terminal: bool, clock: Callable[[], float]):
        self._in_terminal, self._clock = in_terminal, clock
        self._pause = SECONDS_BETWEEN_FRAMES if in_terminal else SECONDS_BETWEEN_LINES
        self._first = self._next = None  # tokens and time after the first batch; next time to show

    def numbers(self, what: str, done: int, total: int) -> list[str]:
        """What to show now, such as ["evaluating 45%", "20,000 tokens/s", "12 s left"]; often [].

        Args:
          what: what is computed.
          done: number of tokens read so far; 0 starts a pass.
          total: number of tokens to read.
        """
        now = self._clock()
        if done == 0:
            self._first = None
            return [what] if self._in_terminal else []
        if self._first is None:
            self._first, self._next = (done, now), now + self._pause
        elif now >= self._next:
            self._next = now + self._pause
            rate = (done - self._first[0]) / (now - self._first[1])
            left = max(total - done, 0) / rate
            return [
                f"{what} {done / total:.0%}",
                f"{rate:,.0f} tokens/s",
                f"{duration(left)} left",
            ]
        return []


class PrepareProgress(_Display):
    """Progress of `prepare_data`; without a terminal, one line every few seconds.

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
        super().__init__((TaskProgressColumn(), BarColumn(20)), 1, 0, stream, clock)
        self._pause = SECONDS_BETWEEN_FRAMES if self._bar else SECONDS_BETWEEN_LINES
        self._next = self._started + self._pause

    def update(self, documents: int, tokens: int, share: float):
        """Shows the progress of all processes together, unless the last update was just now.

        Args:
          documents: number of documents written so far.
          tokens: number of tokens written so far.
          share: share of the work that is done, from 0 to 1.
        """
        now = self._clock()
        if now < self._next or not tokens:
            return
        self._next = now + self._pause
        seconds = max(now - self._started, 1e-3)
        rate = f"{tokens / seconds:,.0f} tokens/s"
        numbers = [f"{documents:,} documents", f"{tokens:,} tokens", rate]
        if share > 0:
            numbers.append(f"{duration(seconds * (1 - share) / share)} left")
        self._show(share, numbers, f"{share:4.0%}")


def start_bar(
    stream: io.TextIOBase, *columns: ProgressColumn | str, total: int, completed: int = 0
) -> Bar | None:
    """Starts a bar with one task, whose field `numbers` is shown last.

    Returns None if the stream is not a terminal.
    """
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    numbers = TextColumn("{task.fields[numbers]}")
    bar = Bar(*columns, numbers, console=Console(file=stream), transient=True)
    bar.add_task("", total=total, completed=completed, numbers="")
    bar.start()
    return bar


def duration(seconds: float) -> str:
    """Formats seconds as "45 s", "4 min 05 s" or "2 h 07 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
