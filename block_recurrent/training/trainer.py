"""A training run from start to end: `Trainer(config, workdir).run()`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from block_recurrent.config.run_config import RunConfig
from block_recurrent.data.lanes import LanePosition
from block_recurrent.data.prefetch import prefetch
from block_recurrent.data.vocabulary_storage import save_vocabulary
from block_recurrent.errors import UserError, write_error_reason
from block_recurrent.files.paths import AnyPath
from block_recurrent.parallel.processes import (
    all_processes_true,
    is_main_process,
    print_from_process,
    print_once,
)
from block_recurrent.reporting.metrics_log import HELD_OUT, is_logged, read_metrics
from block_recurrent.reporting.wandb_log import check_wandb
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.config_changes import Changes, check_changes, record_changes
from block_recurrent.training.corpus_record import check_corpus, record_corpus
from block_recurrent.training.device_memory import explain_exhaustion, layout_table
from block_recurrent.training.held_out import HeldOutEvaluation
from block_recurrent.training.initial_model import load_initial_params
from block_recurrent.training.loop import TrainingLoop
from block_recurrent.training.nonfinite import NonfiniteSteps, RollBack, mark_moved_rows
from block_recurrent.training.preemption import StopSignal
from block_recurrent.training.profiling import Profiler
from block_recurrent.training.reporter import Reporter, Tracker, open_trackers
from block_recurrent.training.retention import Retention
from block_recurrent.training.setup import Setup
from block_recurrent.training.train_step import MetricSums, TrainState
from block_recurrent.training.watching import Watch
from block_recurrent.training.workdir import record_config, workdir_lock

# Options that change the sums of metrics, which then start anew.
BATCH_SHAPE = {"train.batch_size", "train.segment_length"}


class Trainer:
    """A training run, which `run` starts or continues.

    The constructor reads the corpus and checks that everything fits together. It writes nothing.

    Args:
      config: configuration of the run.
      workdir: the folder of the run.
      allow_changes: whether a run may continue with changes of its training; see `check_changes`.

    Raises:
      UserError: corpus, model, batch and devices do not fit together.

    Attributes:
      config: the configuration, with absolute paths and the name of the vocabulary.
      setup: the parts of the run.
      evaluation: scores the held-out documents.
      initial_params: parameters of `train.initial_model`; None if none is set, or after the start.
    """

    def __init__(self, config: RunConfig, workdir: AnyPath, *, allow_changes: bool = False):
        check_wandb(config.train.wandb_project)
        self.workdir, self.allow_changes = workdir, allow_changes
        self.setup = Setup(config)
        self.config = self.setup.config
        self.evaluation = HeldOutEvaluation(self.setup)
        self.initial_params = self._read_initial_params()

    def run(self) -> bool:
        """Trains until the last step, or until `train.patience` ends the run.

        Returns:
          False if a signal stopped the run early, after saving.

        Raises:
          UserError: the folder holds another run, is in use, or cannot be written; or a step needs
            more memory than a device has.
        """
        ways = self.setup.layout.row_ways
        with workdir_lock(self.workdir):
            try:
                return self._run_locked()
            except Exception as error:
                if explained := explain_exhaustion(error, self.config, ways):
                    raise explained from error
                if (why := write_error_reason(error)) is None:
                    raise
                raise UserError(
                    f"cannot write to {self.workdir} ({why}): earlier checkpoints are intact; free "
                    "some space and run the same command again"
                ) from error

    def _run_locked(self) -> bool:
        changes = check_changes(self.workdir, self.config, allow=self.allow_changes)
        if not changes.options:  # else only if the documents are the same
            record_config(self.workdir, self.config)
        retention = Retention(self.config.train)
        with Checkpoints(self.workdir, keep=retention) as checkpoints, StopSignal() as stop:
            state, position = self._start_with(changes, checkpoints)
            self._rank_evaluations(int(state.step), checkpoints, retention)
            if done := self._why_done(int(state.step), retention):
                print_once(done)
                return True
            with open_trackers(self.config, self.workdir) as trackers:
                make_loop = functools.partial(
                    TrainingLoop,
                    train=self.config.train,
                    step=self.setup.compile_step(),
                    evaluation=self.evaluation,
                    checkpoints=checkpoints,
                    retention=retention,
                    nonfinite=NonfiniteSteps(self.config.train, self.setup.lanes, self.workdir),
                    stop=stop,
                )
                while not stop.reached:
                    try:
                        return self._train(make_loop, state, position, trackers)
                    except RollBack as back:
                        position = back.position
                    state = self._roll_back(checkpoints, position)
                    self._rank_evaluations(int(state.step), checkpoints, retention)
        return False

    def _start_with(
        self, changes: Changes, checkpoints: Checkpoints
    ) -> tuple[TrainState, LanePosition]:
        """Records changes of options, once it is certain that they are possible; then `start`."""
        newest = checkpoints.find_latest_intact()
        same_documents = newest is not None and self._check_corpus(changes)
        if changes.options:
            record_changes(self.workdir, changes, newest)
            record_config(self.workdir, self.config)
        self._describe()
        state, position = self.start(checkpoints)
        if same_documents:  # their weights may have changed
            fingerprint = self.setup.lanes.documents.fingerprint
            position = position._replace(corpus=np.array(fingerprint, np.int64))
        if changes.names() & BATCH_SHAPE:
            state = state._replace(sums=self._no_sums())
        return state, position

    def _check_corpus(self, changes: Changes) -> bool:
        """Whether the documents are known to be those that the run started with.

        Raises:
          UserError: they are others.
        """
        options = [str(change) for change in changes.options if change.name.startswith("data.")]
        return check_corpus(
            self.workdir,
            self.setup.documents,
            ["train", "held_out"],
            note=print_once,
            update=True,
            options=options,
        )

    def _describe(self):
        """Prints a summary of the run, writes layout.txt, and copies the vocabulary."""
        print_once(self.setup.summary(self.workdir))
        table = layout_table(self.setup.abstract)
        if is_main_process():
            save_vocabulary(self.workdir, self.setup.lanes.documents.vocabulary)
            (self.workdir / "layout.txt").write_text(table + "\n", encoding="utf-8")
        if self.setup.mesh.size > 1:
            print_once(f"\n{table}\n")

    def start(self, checkpoints: Checkpoints) -> tuple[TrainState, LanePosition]:
        """Returns the state and position of the newest checkpoint, or of a new run."""
        lanes = self.setup.lanes
        position = lanes.initial_position() if lanes.turns == 1 else lanes.staggered_position()
        newest = checkpoints.find_latest_intact()
        if newest is not None:
            print_once(f"continuing from step {newest:,}")
            state, position = checkpoints.restore(self.setup.abstract, position)
            turn = np.array(position.turn % lanes.turns)  # a larger batch has fewer turns
            return state, position._replace(turn=turn)
        record_corpus(self.workdir, self.setup.documents)
        state = self.setup.initial_state()
        if self.initial_params is not None:
            params = jax.device_put(self.initial_params, self.setup.shardings.params)
            state, self.initial_params = state._replace(params=params), None
            if state.averaged is not None:
                state = state._replace(
                    averaged=jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)
                )
        if self.config.train.on_nonfinite == "roll_back":
            checkpoints.save(state, position)
        return state, position

    def _no_sums(self) -> MetricSums:
        """Sums of metrics over no steps."""
        zeros = jax.tree.map(jnp.zeros_like, self.setup.abstract.sums)
        return jax.device_put(zeros, self.setup.shardings.sums)

    def _rank_evaluations(self, step: int, checkpoints: Checkpoints, retention: Retention):
        """Tells `retention` of the evaluations until this step."""
        lines = read_metrics(self.workdir)
        retention.update([line for line in lines if line["step"] <= step], checkpoints.steps)

    def _why_done(self, step: int, retention: Retention) -> str | None:
        """Why there is nothing to do after this step; None if there is."""
        if self.lacks_evaluation(step):
            return None
        if step >= self.config.train.num_steps:
            return f"all {self.config.train.num_steps:,} steps of this run are done"
        return retention.explain_end(step) if retention.ends_run else None

    def lacks_evaluation(self, step: int) -> bool:
        """Whether the run was stopped before the end of the evaluation that is due at this step."""
        if not self.config.train.evaluates_after(step):
            return False
        return all_processes_true(
            not (is_main_process() and is_logged(self.workdir, step, HELD_OUT["raw"]))
        )

    def _roll_back(self, checkpoints: Checkpoints, position: LanePosition) -> TrainState:
        """Returns the state of the newest regular checkpoint, prepared to read from `position`."""
        checkpoints.delete_unscheduled(self.config.train.saves_after)
        state, saved = checkpoints.restore(self.setup.abstract, position)
        return mark_moved_rows(position, state, saved)

    def _train(
        self,
        make_loop: Callable[..., TrainingLoop],
        state: TrainState,
        position: LanePosition,
        trackers: list[Tracker],
    ) -> bool:
        """Runs the training loop from this state on. Returns False if a signal stopped it early."""
        setup, first = self.setup, int(state.step)
        lacks_evaluation = self.lacks_evaluation(first)
        with Reporter(setup, self.workdir, first, trackers) as reporter:
            # Every process reports slow steps; only the first one writes the heartbeat.
            note = reporter.note if reporter.active else print_from_process
            heartbeat = self.workdir / "heartbeat.json" if reporter.active else None
            with (
                Watch(heartbeat, self.config.watch, note, first) as watch,
                Profiler(self.config.train.profile_steps, self.workdir, note) as profiler,
                prefetch(setup.lanes, position, setup.rows, setup.layout.put) as batches,
            ):
                loop = make_loop(reporter=reporter, watch=watch, profiler=profiler)
                return loop.run(state, position, batches, lacks_evaluation)

    def _read_initial_params(self) -> dict[str, Any] | None:
        """Reads `train.initial_model`, if it is set and the run has no checkpoint yet."""
        path = self.config.train.initial_model
        if path is None:
            return None
        with Checkpoints(self.workdir, read_only=True) as checkpoints:
            if checkpoints.steps:
                return None
        return load_initial_params(path, self.config.model, self.config.train.seed)
