"""Tiny training runs in this process, and comparisons of runs."""

import dataclasses
import functools
import json
import os
import signal
from collections.abc import Callable
from unittest.mock import patch

import jax
import numpy as np

from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.train_options import TrainConfig, WatchConfig
from block_recurrent.training import setup
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.trainer import Trainer

NOT_COMPILED = (
    "num_steps",
    "initial_model",
    "eval_every_steps",
    "eval_tokens",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "keep_best",
    "keep_every_steps",
    "best_metric",
    "patience",
    "on_nonfinite",
    "max_nonfinite_steps",
    "profile_steps",
    "sample_tokens",
    "sample_prompt",
    "wandb_project",
)
TRACED_ONCE = {
    name: functools.cache(getattr(setup, name))
    for name in ("abstract_model", "make_optimizer", "init_function")
}


class SharingTrainer(Trainer):
    """A trainer that reuses the functions compiled by an earlier one with the same options.

    Tracing and compiling take nearly all of the time of a tiny run. Other tests show that each
    process compiles the same functions: a plain `Trainer` repeats a run, and processes are killed.
    """

    first = {}
    samplers = {}

    def __init__(self, config, workdir, **options):
        with patch.multiple(setup, **TRACED_ONCE):
            super().__init__(config, workdir, **options)
        self.evaluator, self.probe = self.evaluation.evaluator, self.evaluation.probe
        self.compile_once = functools.cache(self.setup.compile_step)
        known = self.first.setdefault(self._compiled_options(), self)
        self.setup.init, self.setup.compile_step = known.setup.init, known.compile_once
        self.evaluator.initial = known.evaluator.initial
        self.evaluator.step = known.evaluator.step
        if self.probe:
            self.probe.clear = known.probe.clear
        self.evaluation.sampler = self.samplers.setdefault(self.config, self.evaluation.sampler)

    def _compiled_options(self):
        """The options that decide what is compiled, and the rows of an evaluation."""
        others = {name: getattr(TrainConfig, name) for name in NOT_COMPILED}
        train = dataclasses.replace(self.config.train, **others)
        data = DataConfig(self.config.data.corpus)
        rows = self.evaluator.lanes.batch_size
        watch = WatchConfig()
        return dataclasses.replace(self.config, train=train, data=data, watch=watch), rows


def stop_in_step(number):
    """A trainer class that receives SIGTERM whenever it reaches this step."""

    class StoppedTrainer(SharingTrainer):
        def __init__(self, config, workdir):
            super().__init__(config, workdir)
            self.compile_step, self.setup.compile_step = self.setup.compile_step, self.stopped_step

        def stopped_step(self):
            compiled = self.compile_step()

            def step(state, batch):
                if state.step == number - 1:
                    send_sigterm()
                return compiled(state, batch)

            return step

    return StoppedTrainer


def in_evaluation(number, action):
    """A trainer class that calls `action` in the middle of the evaluation after this step."""

    class DisturbedTrainer(SharingTrainer):
        def __init__(self, config, workdir):
            super().__init__(config, workdir)
            self.undisturbed, self.evaluation = self.evaluation, self.disturbed

        def disturbed(self, step, state, reporter, after_batch):
            def disturb(what, done, total):
                if step == number and done > total / 2:
                    action()
                after_batch(what, done, total)

            self.undisturbed(step, state, reporter, disturb)

    return DisturbedTrainer


def send_sigterm():
    """To this process."""
    os.kill(os.getpid(), signal.SIGTERM)


def after_evaluations(trainer: Trainer, action: Callable[[], object]) -> Trainer:
    """Makes the trainer call `action` after each evaluation."""
    evaluate = trainer.evaluation

    def observed(*arguments):
        evaluate(*arguments)
        action()

    trainer.evaluation = observed
    return trainer


def metrics(workdir):
    """The lines of metrics.jsonl, without the fields that depend on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for of_the_clock in ("tokens_per_second", "waiting_for_data"):
            line.pop(of_the_clock, None)
    return lines


def final_arrays(workdir, config):
    """All arrays of the newest checkpoint."""
    parts = SharingTrainer(config, workdir).setup
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state, position = checkpoints.restore(parts.abstract, parts.lanes.initial_position())
    return jax.tree.leaves(jax.device_get((state, position)))


def assert_same_end(workdir, other, config):
    assert metrics(workdir) == metrics(other)
    for a, b in zip(final_arrays(workdir, config), final_arrays(other, config), strict=True):
        np.testing.assert_array_equal(a, b)
