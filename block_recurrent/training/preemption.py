"""Graceful stop: a signal is noted, and all processes stop after the same step."""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: stopped early, run the same command again


class StopSignal:
    """While entered, SIGTERM and SIGINT only make `after_step` return true.

    With several processes it is enough that one gets the signal: JAX's coordination service agrees
    with the others on a step. A second signal kills the process.

    Attributes:
      received: whether this process got a signal.
      reached: whether `after_step` has returned true.
      steps: how often `after_step` was called.
      previous_handlers: handlers of the signals, to be restored.
    """

    def __init__(self):
        self.received = self.reached = False
        self.steps = 0
        self.previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        # With several processes, the coordination service has a handler for SIGTERM already.
        numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        self.previous_handlers = {
            number: signal.signal(number, self._receive) for number in numbers
        }
        return self

    def __exit__(self, *_):
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def after_step(self) -> bool:
        """Returns whether to stop now. Every process must call this after every step.

        Steps are counted from the start of the process. JAX agrees on the step after the last one
        that any process has asked about; before the first call, that is step 1.
        """
        self.steps += 1
        if jax.process_count() > 1:
            self.reached |= multihost_utils.reached_preemption_sync_point(self.steps)
        else:
            self.reached = self.received
        return self.reached

    def _receive(self, number, _frame):
        self.received = True
        signal.signal(number, self.previous_handlers[number])
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
