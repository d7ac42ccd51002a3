"""Steps that are not finite: told, their batches saved, and what follows from them."""

import collections
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from block_recurrent.config.options import TrainConfig
from block_recurrent.data.lanes import LanePosition, Lanes
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath
from block_recurrent.files.writing import atomic_write
from block_recurrent.parallel.processes import is_main_process
from block_recurrent.training.train_step import StepMetrics

KEPT = 10  # batches in nonfinite/


class RollBack(Exception):
    """Go back to the newest checkpoint, and on in the data from `position`."""

    def __init__(self, position: LanePosition):
        super().__init__()
        self.position = position


class Step(NamedTuple):
    """A step that the host has not looked at.

    Attributes:
      number: steps done with it.
      before: the position of its batch.
      after: the position of the next one.
      measured: on the device, perhaps not yet computed.
    """

    number: int
    before: LanePosition
    after: LanePosition
    measured: StepMetrics


class NonfiniteSteps:
    """Watches over a run, without a word to the device between two lines of metrics.

    A step that is not finite has changed nothing (`train_step`), so the host need not know of it at
    once. It looks when it waits for the device anyway, at steps that do not depend on the clock,
    and before every checkpoint: what follows is the same in all processes, and in a resumed run.

    Args:
      train: says what follows.
      lanes: read the batch again, to save it.
      workdir: of the run; batches go to nonfinite/ in it.
    """

    def __init__(self, train: TrainConfig, lanes: Lanes, workdir: AnyPath):
        self.train, self.lanes, self.folder = train, lanes, workdir / "nonfinite"
        self.unseen: collections.deque[Step] = collections.deque()
        self.returns = 0

    def add(self, step: Step):
        """To be looked at later."""
        self.unseen.append(step)

    def look(self, until: int, note: Callable[[str], None]):
        """Waits for the steps up to number `until`, and acts on those that are not finite.

        Args:
          until: a step's number.
          note: tells a person a line; for the first process.

        Raises:
          RollBack: `train.on_nonfinite` says so.
          UserError: it is time to stop.
        """
        while self.unseen and self.unseen[0].number <= until:
            step = self.unseen.popleft()
            step = step._replace(measured=jax.device_get(step.measured))
            if step.measured.nonfinite:
                self._act(step, note)

    def saved(self):
        """A checkpoint is there to which no return has been."""
        self.returns = 0

    def _act(self, step: Step, note: Callable[[str], None]):
        line = f"step {step.number:,}: {describe(step.measured)}"
        if is_main_process():
            line += f"; {self._save(step)}"
        policy, most = self.train.on_nonfinite, self.train.max_nonfinite_steps
        self.returns += policy == "roll_back"
        times = self.returns if policy == "roll_back" else int(step.measured.nonfinite)
        if policy == "stop" or times >= most:
            raise UserError(
                f"{line}. {stopped(policy, times)}: lower optimizer.learning_rate or set "
                "optimizer.clip_norm in a new run, or go on with another train.on_nonfinite"
            )
        if policy == "roll_back":
            if is_main_process():
                note(f"{line}. Back to the newest checkpoint, and on after this batch")
            self.unseen.clear()
            raise RollBack(step.after)
        if is_main_process():
            note(f"{line}. Left out")

    def _save(self, step: Step) -> str:
        """Writes the global batch, if there are not too many. Returns where it is."""
        path = self.folder / f"step_{step.number}.npz"
        self.folder.mkdir(exist_ok=True)
        if not path.exists() and len(list(self.folder.glob("*.npz"))) >= KEPT:
            return f"its batch is not saved, {self.folder} has {KEPT}"
        batch, _ = self.lanes.read(step.before)
        arrays = batch._asdict() | step.before._asdict()
        measured = {"loss": step.measured.loss, "gradient_norm": step.measured.grad_norm}
        with atomic_write(path) as file:
            np.savez(file, step=step.number, **arrays, **measured)
        return f"its batch is in {path}"


def describe(measured: StepMetrics) -> str:
    """As "loss nan, gradient norm nan"."""
    text = f"loss {measured.loss:.4g}, gradient norm {measured.grad_norm:.4g}"
    finite = np.isfinite(measured.loss) and np.isfinite(measured.grad_norm)
    return f"{text}, a recurrent state that is not finite" if finite else text


def stopped(policy: str, times: int) -> str:
    """Why the run ends, as "That is 10 steps in a row"."""
    if policy == "stop":
        return "Stopped (train.on_nonfinite = 'stop')"
    what = "returns to one checkpoint" if policy == "roll_back" else "steps in a row"
    return f"Stopped after {times} {what} (train.max_nonfinite_steps)"
