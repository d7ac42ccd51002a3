"""A polite stop: the signal is noted, and the training loop ends after its step."""

import signal

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: stopped early, run the same command again


class StopSignal:
    """While entered, SIGTERM and SIGINT set `received` and do nothing more; a second one kills."""

    def __init__(self):
        self.received = False

    def __enter__(self) -> "StopSignal":
        self.before = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number, _frame):
        self.received = True
        signal.signal(number, self.before[number])
