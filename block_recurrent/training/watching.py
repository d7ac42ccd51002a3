"""Watches the training loop in a thread: writes a heartbeat file, and reports slow steps."""

import collections
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from block_recurrent.config.train_options import WatchConfig
from block_recurrent.files.paths import AnyPath
from block_recurrent.files.writing import atomic_write

HEARTBEAT_INTERVAL = 5.0  # seconds between two heartbeats, at least
POLL_INTERVAL = 0.5  # seconds between two checks by the thread
MIN_LIMIT = 5.0  # seconds; shorter waits are never reported
FIRST_LIMIT = 60.0  # seconds; the limit before the first step has been measured
MEDIAN_STRETCHES = 20  # a wait is compared with the median of this many stretches of steps


class Watch:
    """Watches the training loop in its own thread::

        with Watch(path, config, note) as watch:
            with watch.at("waiting for data"):        # reported if it takes too long
                ...
            watch.step(done)

    The thread writes ``{"step", "time", "doing"}`` to `path`, atomically. It writes only if the
    loop has moved on, and at most every 5 seconds. So if the file is old, the loop is stuck.

    Args:
      path: path of heartbeat.json; None if this process does not write it.
      config: options, such as the limit for slow steps.
      note: prints a line; called from the thread.
      done: number of steps done before.
      clock: returns seconds, from any origin.
    """

    def __init__(
        self,
        path: AnyPath | None,
        config: WatchConfig,
        note: Callable[[str], None],
        done: int = 0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.path, self.config, self.note, self.clock = path, config, note, clock
        self.done = self.computed = done  # steps dispatched, and steps known to be computed
        self.since = self.next_beat = clock()  # `since`: time at which `computed` was updated
        self.step_seconds = collections.deque(maxlen=MEDIAN_STRETCHES)
        self.phase = "starting", clock()  # what the loop is doing, and since when
        self.written_phase = self.reported_phase = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self._begin("ended")
        self._write_heartbeat()

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """Names what the loop does inside the context. Only "waiting for …" is ever reported."""
        self._begin(what)
        try:
            yield
        finally:
            self._begin("stepping")

    def advance(self):
        """Records that what the loop is doing goes on, so that the heartbeat is written again."""
        self._begin(self.phase[0])

    def step(self, done: int):
        """Records that step number `done` has been dispatched to the device."""
        self.done = done

    def measured(self, done: int):
        """Records that the device has computed step number `done`, and measures the time."""
        now, steps = self.clock(), done - self.computed
        if steps > 0:
            self.step_seconds.append((now - self.since) / steps)
        self.since, self.computed = now, done

    def paused(self):
        """Excludes the time since the last call of `measured` from the time of the steps."""
        self.since, self.computed = self.clock(), self.done

    def poll(self):
        """Writes the heartbeat if it is due. Reports a wait that takes too long, but only once."""
        now, phase = self.clock(), self.phase
        if now >= self.next_beat and phase is not self.written_phase:
            self.written_phase, self.next_beat = phase, now + HEARTBEAT_INTERVAL
            self._write_heartbeat()
        what, begun = phase
        waiting = what.startswith("waiting") and phase is not self.reported_phase
        if not waiting or now - begun <= self.limit():
            return
        self.reported_phase = phase
        line = f"step {self.done + 1:,} has taken {now - begun:.0f} s"
        if self.step_seconds:
            line += f", {(now - begun) / self._expected_seconds():,.0f} × the median"
        self.note(f"{line}: {what}")

    def limit(self) -> float:
        """The longest time in seconds that a wait may take."""
        if not self.step_seconds:
            return FIRST_LIMIT
        return max(MIN_LIMIT, self.config.slow_factor * self._expected_seconds())

    def _expected_seconds(self) -> float:
        """Expected time in seconds for the steps that the device may not have computed yet."""
        return statistics.median(self.step_seconds) * max(self.done - self.computed, 1)

    def _begin(self, what: str):
        self.phase = what, self.clock()

    def _write_heartbeat(self):
        if self.path is None:
            return
        beat = {"step": self.done, "time": time.time(), "doing": self.phase[0]}
        with contextlib.suppress(OSError), atomic_write(self.path) as file:  # the disk may be full
            file.write(json.dumps(beat).encode() + b"\n")

    def _run(self):
        while not self.ended.wait(POLL_INTERVAL):
            self.poll()
