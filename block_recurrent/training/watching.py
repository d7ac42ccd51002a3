"""Watches the training loop from a thread: a heartbeat file, and a note when a step is too slow."""

import collections
import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator

from block_recurrent.config.options import WatchConfig
from block_recurrent.files.paths import AnyPath
from block_recurrent.files.writing import atomic_write

HEARTBEAT_INTERVAL = 5.0  # seconds between two heartbeats, at least
POLL_INTERVAL = 0.5  # seconds between two checks by the thread
MIN_LIMIT = 5.0  # seconds; shorter waits are never reported
FIRST_LIMIT = 60.0  # seconds, while no step has been measured yet
MEDIAN_STRETCHES = 20  # a wait is compared with the median of this many stretches of steps


class Watch:
    """Watches the training loop from its own thread::

        with Watch(path, config, note) as watch:
            with watch.at("waiting for data"):        # reported if it takes too long
                ...
            watch.step(done)

    `path` gets ``{"step", "time", "doing"}``. The file is replaced atomically when the loop has
    moved on, at most every 5 seconds. So its age is how long nothing has happened.

    Args:
      path: heartbeat.json; None if this process writes none.
      config: says what is too slow.
      note: prints a line for people; called from the thread.
      done: steps done before.
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
        self.since = self.next_beat = clock()  # `since`: when `computed` was counted
        self.step_seconds = collections.deque(maxlen=MEDIAN_STRETCHES)
        self.phase = "starting", clock()  # what the loop does, and since when
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
        """Says what the loop does while entered. Only a "waiting for …" can take too long."""
        self._begin(what)
        try:
            yield
        finally:
            self._begin("stepping")

    def step(self, done: int):
        """Step number `done` has been dispatched to the device."""
        self.done = done

    def measured(self, done: int):
        """The device has computed step number `done`."""
        now, steps = self.clock(), done - self.computed
        if steps > 0:
            self.step_seconds.append((now - self.since) / steps)
        self.since, self.computed = now, done

    def paused(self):
        """Does not count the time since the last `measured`, which went into other things."""
        self.since, self.computed = self.clock(), self.done

    def poll(self):
        """Writes the heartbeat if it is due, and reports a wait that takes too long, once."""
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
        """Seconds that one wait may take."""
        if not self.step_seconds:
            return FIRST_LIMIT
        return max(MIN_LIMIT, self.config.slow_factor * self._expected_seconds())

    def _expected_seconds(self) -> float:
        """Usual seconds for the steps that the device may not have computed yet."""
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
