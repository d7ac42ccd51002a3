"""Measures the time of steps, evaluations and checkpoints, and estimates the time left."""

import collections
import contextlib
import math
import statistics
from collections.abc import Callable, Iterator

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.console.working_time import working_seconds

MEDIAN_LAPS = 20  # the pace of the steps is the median of this many laps


class RunTimer:
    """Measures how long a run takes.

    Args:
      train: options, such as the steps between two evaluations.
      first_step: number of steps done before.
      clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        train: TrainConfig,
        first_step: int = 0,
        *,
        clock: Callable[[], float] = working_seconds,
    ):
        self.train, self.clock = train, clock
        self.step, self.began = first_step, clock()  # of the current lap; `began` skips pauses
        self.waited = 0.0  # seconds of this lap spent waiting for data
        self.step_seconds = collections.deque(maxlen=MEDIAN_LAPS)
        self.pauses: dict[str, float] = {}  # seconds of the newest pause of each kind

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Counts the time spent inside as waiting for data."""
        began = self.clock()
        yield
        self.waited += self.clock() - began

    @contextlib.contextmanager
    def pause(self, kind: str) -> Iterator[None]:
        """Excludes the time spent inside from the time of the steps.

        Args:
          kind: "evaluation" or "checkpoint", whose next ones are expected to take as long; or any
            other name.
        """
        began = self.clock()
        yield
        self.pauses[kind] = self.clock() - began
        self.began += self.pauses[kind]

    def lap(self, step: int) -> tuple[float, float]:
        """Ends a lap. Returns its seconds without pauses, and those spent waiting for data.

        Args:
          step: number of the last step of the lap.
        """
        now = self.clock()
        seconds, self.began = now - self.began, now
        waited, self.waited = self.waited, 0.0
        self.step_seconds.append(seconds / (step - self.step))
        self.step = step
        return seconds, waited

    def seconds_left(self) -> float:
        """The expected time from the last step of the newest lap to the end of the run."""
        train, step = self.train, self.step
        left = (train.num_steps - step) * statistics.median(self.step_seconds)

        def times(every: int) -> int:
            # Those after this step itself are still to come, and so is one after the last step.
            return train.num_steps // every - (step - 1) // every + (train.num_steps % every > 0)

        evaluations = times(train.eval_every_steps)
        checkpoints = times(train.checkpoint_every_steps)
        if train.keep_best:  # a checkpoint at every evaluation
            both = math.lcm(train.eval_every_steps, train.checkpoint_every_steps)
            checkpoints += evaluations - times(both)
        left += evaluations * self.pauses.get("evaluation", 0.0)
        return left + checkpoints * self.pauses.get("checkpoint", 0.0)
