"""The training loop: one step per batch, with metrics, evaluations and checkpoints in between."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.lanes import Batch, LanePosition
from block_recurrent.evaluation.evaluator import AfterBatch
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.nonfinite import NonfiniteSteps, UncheckedStep
from block_recurrent.training.preemption import Stopped, StopSignal
from block_recurrent.training.profiling import Profiler
from block_recurrent.training.reporter import Reporter
from block_recurrent.training.retention import Retention
from block_recurrent.training.train_step import StepMetrics, TrainState, TrainStep
from block_recurrent.training.watching import Watch


@dataclasses.dataclass
class TrainingLoop:
    """Runs the training steps, and reports, evaluates and saves in between.

    Attributes:
      train: options, such as the steps between two reports.
      step: the compiled training step.
      evaluation: scores the held-out documents; called with step, state, reporter, and a function
        to call after every batch.
      checkpoints: saves the state and the position in the data.
      retention: decides which checkpoints are kept, and whether the run ends early.
      nonfinite: handles steps that are not finite.
      stop: knows whether a signal has asked the run to stop.
      reporter: writes metrics and notes.
      watch: notices when the loop is stuck.
      profiler: profiles some of the steps.
      due: the step whose metrics have not been written yet, and its results.
    """

    train: TrainConfig
    step: TrainStep
    evaluation: Callable[[int, TrainState, Reporter, AfterBatch], None]
    checkpoints: Checkpoints
    retention: Retention
    nonfinite: NonfiniteSteps
    stop: StopSignal
    reporter: Reporter
    watch: Watch
    profiler: Profiler
    due: tuple[int, StepMetrics] | None = None

    def run(
        self,
        state: TrainState,
        position: LanePosition,
        batches: Iterator[tuple[Batch, LanePosition]],
        lacks_evaluation: bool = False,
    ) -> bool:
        """Trains until the last step, a stop signal or the end of `train.patience`, then saves.

        Args:
          state: the state before the first step; donated.
          position: the position of the first batch.
          batches: each batch with the position after it.
          lacks_evaluation: whether to evaluate this state first.

        Returns:
          False if a signal stopped the run early.

        Raises:
          RollBack: a step was not finite, and `train.on_nonfinite` is 'roll_back'.
          UserError: a step was not finite, and the run must end.
        """
        train, first = self.train, int(state.step)
        if lacks_evaluation:
            self.evaluate(first, state)
        for number in range(first + 1, train.num_steps + 1):
            if self.stop.reached:
                break
            if self.retention.ends_run:
                self.reporter.note(self.retention.explain_end(number - 1))
                break
            state, position = self.advance(number, state, position, batches)
            stopping = self.stop.after_step()
            evaluate = train.evaluates_after(number)
            save = stopping or train.saves_after(number)
            if evaluate or save:
                self.report()
                self.check(number)  # before saving, so that no checkpoint contains such a step
                # A run that ends without its evaluation catches up on it when it is continued.
                if save:
                    self.save(state, position)
                if evaluate and not stopping:
                    self.evaluate(number, state)
                    if (self.stop.reached or self.retention.ends_run) and not save:
                        self.save(state, position)
        with self.watch.at("waiting for the checkpoint"):
            self.checkpoints.wait()
        return not self.stop.reached

    def advance(
        self,
        number: int,
        state: TrainState,
        position: LanePosition,
        batches: Iterator[tuple[Batch, LanePosition]],
    ) -> tuple[TrainState, LanePosition]:
        """Starts a step, and reports an earlier one while the device computes it."""
        with self.profiler.step(number, state):
            with self.watch.at("waiting for data"), self.reporter.timer.waiting_for_data():
                batch, after = next(batches)
            with self.watch.at("waiting for the device"):
                state, results = self.step(state, batch)
        if number == self.profiler.last:
            self.end_profile(state)
        self.watch.step(number)
        self.nonfinite.add(UncheckedStep(number, position, after, results))
        self.report()
        if number == self.train.num_steps or number % self.train.log_every_steps == 0:
            self.due = number, results
        return state, after

    def report(self):
        """Writes the metrics that are due, if any."""
        if self.due is not None:
            (number, results), self.due = self.due, None
            self.check(number)
            self.reporter.report_training(number, results)

    def check(self, number: int):
        """Waits for the steps up to `number`, and handles those that were not finite."""
        with self.watch.at("waiting for the device"):
            self.nonfinite.check(number, self.reporter.note)
        self.watch.measured(number)

    def end_profile(self, state: TrainState):
        """Writes the profile, if steps are being traced."""
        if self.profiler.is_tracing:
            with self.pause("profile"), self.watch.at("writing the profile"):
                self.profiler.write(state)

    @contextlib.contextmanager
    def pause(self, kind: str) -> Iterator[None]:
        """Excludes the time spent inside from the measured time of the steps; see `RunTimer`."""
        with self.reporter.timer.pause(kind):
            yield
            self.watch.paused()

    def evaluate(self, number: int, state: TrainState):
        """Evaluates. A stop signal ends this early, and then nothing is written."""
        self.end_profile(state)  # it shows steps, and an evaluation may take minutes
        with (
            self.pause("evaluation"),
            self.watch.at("evaluating"),
            self.reporter.evaluation(number) as show,
            contextlib.suppress(Stopped),
        ):

            def after_batch(what: str, done: int, total: int):
                self.watch.advance()
                show(what, done, total)
                if self.stop.after_step():
                    raise Stopped

            self.evaluation(number, state, self.reporter, after_batch)
        self.retention.update(self.reporter.history(), self.checkpoints.steps)

    def save(self, state: TrainState, position: LanePosition):
        """Starts to save. Metrics are flushed first: those before a checkpoint must not be lost."""
        self.reporter.flush()
        with self.pause("checkpoint"), self.watch.at("waiting for the checkpoint"):
            self.checkpoints.save(state, position)
        self.nonfinite.checkpoint_saved()
