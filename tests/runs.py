"""Tiny training runs in this process, and what makes two of them equal."""

import dataclasses
import functools
import json
import os
import signal
from unittest.mock import patch

import jax
import numpy as np

from block_recurrent.config.options import TrainConfig, WatchConfig
from block_recurrent.training import trainer
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.trainer import Trainer

NOT_COMPILED = (
    "num_steps",
    "eval_every_steps",
    "checkpoint_every_steps",
    "on_nonfinite",
    "max_nonfinite_steps",
    "sample_tokens",
    "sample_prompt",
    "wandb_project",
)
TRACED_ONCE = {
    name: functools.cache(getattr(trainer, name))
    for name in ("abstract_model", "make_optimizer", "init_function")
}


class SharingTrainer(Trainer):
    """A new trainer that runs the functions that another one has compiled from the same parameters.

    Tracing and compiling are nearly all of a tiny run's time. That each process comes to the same
    functions is seen where a plain `Trainer` repeats a run, and where one is killed.
    """

    first = {}
    writers = {}

    def __init__(self, config, workdir):
        with patch.multiple(trainer, **TRACED_ONCE):
            super().__init__(config, workdir)
        self.known = known = self.first.setdefault(self.compiled_from, self)
        self.init, self.evaluator.initial = known.init, known.evaluator.initial
        self.evaluator.step = known.evaluator.step
        self.writer = self.writers.setdefault(self.config, self.writer)

    @property
    def compiled_from(self):
        """The configuration without what no compiled function knows, and rows of evaluation."""
        unknown = {name: getattr(TrainConfig, name) for name in NOT_COMPILED}
        train = dataclasses.replace(self.config.train, **unknown)
        data = dataclasses.replace(self.config.data, path=None)
        rows = self.evaluator.lanes.batch_size
        watch = WatchConfig()
        return dataclasses.replace(self.config, train=train, data=data, watch=watch), rows

    def compile_step(self):
        if not hasattr(self.known, "step"):
            self.known.step = super().compile_step()
        return self.known.step


def stop_in_step(number):
    """A trainer that gets SIGTERM in that step, each time that it comes there."""

    class StoppedTrainer(SharingTrainer):
        def compile_step(self):
            compiled = super().compile_step()

            def step(state, batch):
                if state.step == number - 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                return compiled(state, batch)

            return step

    return StoppedTrainer


def metrics(workdir):
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for of_the_clock in ("tokens_per_second", "waiting_for_data"):
            line.pop(of_the_clock, None)
    return lines


def final_arrays(workdir, config):
    run = SharingTrainer(config, workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state, position = checkpoints.restore(run.abstract, run.lanes.initial_position())
    return jax.tree.leaves(jax.device_get((state, position)))


def assert_same_end(workdir, other, config):
    assert metrics(workdir) == metrics(other)
    for a, b in zip(final_arrays(workdir, config), final_arrays(other, config), strict=True):
        np.testing.assert_array_equal(a, b)
