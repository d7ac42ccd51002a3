"""A clock that stops while JAX compiles."""

import functools
import time

import jax

COMPILATION = "/jax/core/compile/"  # the events that JAX records while it compiles


class CompileTime:
    """Counts the seconds that JAX spends on tracing and compiling, in all threads."""

    def __init__(self):
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add)

    def _add(self, event: str, seconds: float, **_):
        if event.startswith(COMPILATION):
            self.seconds += seconds


compile_time = functools.cache(CompileTime)  # one for the process


def working_seconds() -> float:
    """Seconds from any origin, without those in which JAX compiled.

    A program is compiled once, at its first call, so this time tells nothing about later calls.
    """
    return time.perf_counter() - compile_time().seconds
