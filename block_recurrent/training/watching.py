"""A run as its scheduler sees it: a heartbeat, and a word when a step takes far too long."""

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

BEAT = 5.0  # seconds between two heartbeats, at least
LOOK = 0.5  # seconds between two looks at the clock
SHORTEST = 5.0  # seconds that nobody is told of
FIRST = 60.0  # seconds for what comes before anybody knows how long a step takes
STEPS = 20  # stretches of steps whose median a step is compared with


class Watch:
    """Looks at the training loop from a thread of its own::

        with Watch(path, config, note) as watch:
            with watch.at("waiting for data"):        # told of, if it takes too long
                ...
            watch.step(done)

    `path` gets ``{"step", "time", "doing"}``, replaced as a whole when the loop has moved on, but
    not more often than every 5 seconds: its age is how long nothing has happened.

    Args:
      path: heartbeat.json; None: this process writes none.
      config: what is too long.
      note: tells a person a line, from the thread.
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
        self.done = self.computed = done
        self.since = self.next_beat = clock()
        self.seconds = collections.deque(maxlen=STEPS)  # a step
        self.beaten = self.told = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._begin("starting")

    def __enter__(self) -> "Watch":
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self._begin("ended")
        self._beat()

    @contextlib.contextmanager
    def at(self, what: str) -> Iterator[None]:
        """What the loop does while entered; only if it is "waiting for …" can it take too long."""
        self._begin(what)
        try:
            yield
        finally:
            self._begin("stepping")

    def step(self, done: int):
        """Step number `done` has been given to the device."""
        self.done = done

    def measured(self, done: int):
        """The device has computed step number `done`."""
        now, steps = self.clock(), done - self.computed
        if steps > 0:
            self.seconds.append((now - self.since) / steps)
        self.since, self.computed = now, done

    def paused(self):
        """Since the last `measured`, something else than steps has taken time."""
        self.since, self.computed = self.clock(), self.done

    def look(self):
        """What the thread does every half second: beats, and tells what takes too long."""
        now, phase = self.clock(), self.phase
        if now >= self.next_beat and phase is not self.beaten:
            self.beaten, self.next_beat = phase, now + BEAT
            self._beat()
        what, begun = phase
        if phase is self.told or not what.startswith("waiting") or now - begun <= self.limit():
            return
        self.told = phase
        line = f"step {self.done + 1:,} has taken {now - begun:.0f} s"
        if self.seconds:
            line += f", {(now - begun) / self._usual():,.0f} × the median"
        self.note(f"{line}: {what}")

    def limit(self) -> float:
        """Seconds that one wait may take."""
        return max(SHORTEST, self.config.slow_factor * self._usual()) if self.seconds else FIRST

    def _usual(self) -> float:
        """Seconds for the steps that the device may not have computed."""
        return statistics.median(self.seconds) * max(self.done - self.computed, 1)

    def _begin(self, what: str):
        self.phase = what, self.clock()

    def _beat(self):
        if self.path is None:
            return
        beat = {"step": self.done, "time": time.time(), "doing": self.phase[0]}
        with contextlib.suppress(OSError), atomic_write(self.path) as file:  # a full disk, perhaps
            file.write(json.dumps(beat).encode() + b"\n")

    def _run(self):
        while not self.ended.wait(LOOK):
            self.look()
