"""Graceful stop: after a signal, all processes stop at the same point."""

import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils

STOPPED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: stopped early, run the same command again


class Stopped(Exception):
    """A stop signal has ended an evaluation early."""


class StopSignal:
    """Inside the context, SIGTERM and SIGINT only make `after_step` return True.

    With several processes, a signal to one of them is enough: JAX's coordination service makes all
    processes stop after the same step. A second signal kills the process.

    Attributes:
      received: whether this process has received a signal.
      reached: whether `after_step` has returned True.
      steps: number of calls of `after_step`.
      previous_handlers: the signal handlers to restore.
    """

    def __init__(self):
        self.received = self.reached = False
        self.steps = 0
        self.previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        # With several processes, the coordination service already handles SIGTERM.
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

        A step is one of training, or one batch of an evaluation. Steps are counted from the start
        of the process. After a signal, the processes stop after the step that follows the latest
        one that any of them has asked about; before the first call, that is step 1.
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
