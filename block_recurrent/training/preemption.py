"""A polite stop: the signal is noted, and all processes end after the same step."""

import os
import signal

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: stopped early, run the same command again


class StopSignal:
    """While entered, SIGTERM and SIGINT make `after_step` true, and do nothing more.

    Of several processes it is enough that one gets the signal: the coordination service of JAX
    agrees with the others on a step. A second signal kills.

    Attributes:
      reached: whether `after_step` has been true.
    """

    def __init__(self):
        self.received = self.reached = False
        self.steps = 0

    def __enter__(self) -> "StopSignal":
        # With several processes SIGTERM is the coordination service's, which has taken it already.
        numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        self.before = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def after_step(self) -> bool:
        """Whether to stop now; every process asks after every step.

        Steps are counted from the start of the process: JAX agrees on the one after the last that
        anybody has asked about, and before the first question that is number 1.
        """
        self.steps += 1
        if jax.process_count() > 1:
            self.reached |= multihost_utils.reached_preemption_sync_point(self.steps)
        else:
            self.reached = self.received
        return self.reached

    def _receive(self, number, _frame):
        self.received = True
        signal.signal(number, self.before[number])
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
