"""Profiles a few steps of a run: where the time of the device goes, and what fills its memory."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from block_recurrent.files.paths import AnyPath
from block_recurrent.parallel.processes import is_main_process
from block_recurrent.training.train_step import TrainState

FOLDER = "profile"  # in the folder of a run


class Profiler:
    """Traces the steps `train.profile_steps`, in the first process, and writes to profile/::

        with Profiler(train.profile_steps, workdir, note) as profiler:
            for number in …:
                with profiler.step(number, state):
                    state, results = step(state, batch)
                if number == profiler.last:
                    profiler.write(state)

    If the run ends, evaluates or returns to a checkpoint before the last of these steps, what has
    been traced is written. A run that continues after the first of them traces nothing.

    Args:
      steps: numbers of the first and the last step, or nothing.
      workdir: the folder of the run.
      note: prints a line.
    """

    def __init__(self, steps: Sequence[int], workdir: AnyPath, note: Callable[[str], None]):
        self.first, self.last = steps if steps and is_main_process() else (None, None)
        self.folder, self.note = workdir / FOLDER, note
        self.temporary: tempfile.TemporaryDirectory | None = None  # while tracing
        self.number = 0  # of the newest step

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_):
        self.write()

    @property
    def is_tracing(self) -> bool:
        """Whether a trace has begun and not been written."""
        return self.temporary is not None

    @contextlib.contextmanager
    def step(self, number: int, state: TrainState) -> Iterator[None]:
        """Names a step in the trace. Starts the trace before the first one to be traced.

        Args:
          number: number of the step, from 1.
          state: the state before it. The trace starts when it has been computed.
        """
        if number == self.first:
            jax.block_until_ready(state)
            self._start()
        if not self.is_tracing:
            yield
            return
        self.number = number
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def write(self, state: TrainState | None = None):
        """Ends the trace, if there is one, and writes it with a profile of the device memory.

        Args:
          state: the state after the newest step, which is waited for.
        """
        if not self.is_tracing:
            return
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(self.temporary))
            self.temporary = None
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            jax.profiler.save_device_memory_profile(folder / "memory.prof")
            self._publish(folder)

    def _start(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="profile-")
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # calls of Python functions would slow down the steps
        jax.profiler.start_trace(self.temporary.name, profiler_options=options)

    def _publish(self, folder: Path):
        """Copies the finished files, since the profiler itself cannot write to a bucket."""
        for file in folder.rglob("*"):
            if file.is_file():
                target = self.folder / file.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read_bytes())
        self.note(
            f"steps {self.first:,} to {self.number:,} are profiled in {self.folder}: open its "
            f"*.trace.json.gz at ui.perfetto.dev, or run tensorboard --logdir={self.folder} (with "
            "pip install xprof); pprof reads memory.prof"
        )
