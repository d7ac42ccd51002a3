"""Handles steps that are not finite: reports them, saves their batches, applies the policy."""

import collections
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.lanes import LanePosition, Lanes
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath
from block_recurrent.files.writing import atomic_write
from block_recurrent.parallel.processes import is_main_process
from block_recurrent.training.train_step import StepMetrics, TrainState

MAX_SAVED_BATCHES = 10  # in the folder nonfinite/ of a run


class RollBack(Exception):
    """The run must return to its newest checkpoint, and continue with the batch at `position`."""

    def __init__(self, position: LanePosition):
        super().__init__()
        self.position = position


class UncheckedStep(NamedTuple):
    """A step whose results the host has not read yet.

    Attributes:
      number: number of the step, from 1.
      before: position of its batch.
      after: position of the next batch.
      results: its results on the device, which may not be computed yet.
    """

    number: int
    before: LanePosition
    after: LanePosition
    results: StepMetrics


class NonfiniteSteps:
    """Checks whether steps were finite, without synchronising with the device at every step.

    A step that is not finite changes neither parameters nor optimizer (see `train_step`). So it is
    enough to check when metrics are read, and before every evaluation and checkpoint. When checks
    happen depends only on step numbers, so all processes and resumed runs behave the same.

    Args:
      train: options, such as `on_nonfinite`.
      lanes: used to read a batch again, to save it.
      workdir: folder of the run; batches are saved in its subfolder nonfinite/.
    """

    def __init__(self, train: TrainConfig, lanes: Lanes, workdir: AnyPath):
        self.train, self.lanes, self.folder = train, lanes, workdir / "nonfinite"
        self.unchecked: collections.deque[UncheckedStep] = collections.deque()
        self.roll_backs = 0  # to the newest checkpoint

    def add(self, step: UncheckedStep):
        """Adds a step for `check`."""
        self.unchecked.append(step)

    def check(self, until: int, note: Callable[[str], None]):
        """Waits for the steps up to number `until`, and handles those that were not finite.

        Args:
          until: number of the last step to check.
          note: prints a line, in one process only.

        Raises:
          RollBack: a step was not finite, and `train.on_nonfinite` is 'roll_back'.
          UserError: a step was not finite, and the run must end.
        """
        while self.unchecked and self.unchecked[0].number <= until:
            step = self.unchecked.popleft()
            step = step._replace(results=jax.device_get(step.results))
            if step.results.nonfinite:
                self._apply_policy(step, note)

    def checkpoint_saved(self):
        """Resets the count of returns, since the run has not returned to this checkpoint yet."""
        self.roll_backs = 0

    def _apply_policy(self, step: UncheckedStep, note: Callable[[str], None]):
        line = f"step {step.number:,}: {describe(step.results)}"
        if is_main_process():
            line += f"; {self._save_batch(step)}"
        policy, limit = self.train.on_nonfinite, self.train.max_nonfinite_steps
        self.roll_backs += policy == "roll_back"
        times = self.roll_backs if policy == "roll_back" else int(step.results.nonfinite)
        if policy == "stop" or times >= limit:
            raise UserError(
                f"{line}. {why_stopped(policy, times)}: lower optimizer.learning_rate and add "
                "--allow_changes, set optimizer.clip_norm in a new run, or continue with another "
                "train.on_nonfinite"
            )
        if policy == "roll_back":
            note(f"{line}. Returning to the newest checkpoint; training continues after this batch")
            self.unchecked.clear()
            raise RollBack(step.after)
        note(f"{line}. The step is skipped")

    def _save_batch(self, step: UncheckedStep) -> str:
        """Saves the global batch unless the folder has enough. Says where, for a message."""
        path = self.folder / f"step_{step.number}.npz"
        self.folder.mkdir(exist_ok=True)
        if not path.exists() and len(list(self.folder.glob("*.npz"))) >= MAX_SAVED_BATCHES:
            return f"its batch is not saved, as {self.folder} already has {MAX_SAVED_BATCHES}"
        batch, _ = self.lanes.read(step.before)
        arrays = batch._asdict() | step.before._asdict()
        measured = {"loss": step.results.loss, "gradient_norm": step.results.grad_norm}
        with atomic_write(path) as file:
            np.savez(file, step=step.number, **arrays, **measured)
        return f"its batch is in {path}"


def mark_moved_rows(position: LanePosition, state: TrainState, saved: LanePosition) -> TrainState:
    """Prepares a restored state for continuing at another position than it was saved with.

    If the document or offset of a row differs, its memory belongs to another place. Such a row is
    marked as not finite, so the next step restarts it, as at the start of a document.

    Args:
      position: the position at which the run continues.
      state: the state from a checkpoint.
      saved: the position from the same checkpoint.
    """
    in_place = np.equal(position.document, saved.document) & np.equal(position.offset, saved.offset)
    logical_and = jax.jit(jnp.logical_and, out_shardings=state.finite.sharding)
    return state._replace(finite=logical_and(state.finite, in_place))


def describe(results: StepMetrics) -> str:
    """Describes what was not finite, such as "loss nan, gradient norm nan"."""
    text = f"loss {results.loss:.4g}, gradient norm {results.grad_norm:.4g}"
    finite = np.isfinite(results.loss) and np.isfinite(results.grad_norm)
    return f"{text}, a recurrent state that is not finite" if finite else text


def why_stopped(policy: str, times: int) -> str:
    """Why the run ends, such as "Stopped after 10 steps in a row (…)"."""
    if policy == "stop":
        return "Stopped (train.on_nonfinite = 'stop')"
    what = "returns to one checkpoint" if policy == "roll_back" else "steps in a row"
    return f"Stopped after {times} {what} (train.max_nonfinite_steps)"
