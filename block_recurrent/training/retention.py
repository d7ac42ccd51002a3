"""Which checkpoints a run keeps, which one is its best, and when it ends early."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationContext,
    PreservationPolicy,
)

from block_recurrent.config.options import TrainConfig

SPLIT = "held_out"  # the split of the evaluations that decide


class Retention(PreservationPolicy):
    """Decides which checkpoints are kept, and whether the run ends early.

    It is a policy of Orbax. Orbax knows the metrics of a checkpoint only if it is saved after its
    evaluation, but a run saves before it, so that a kill during the evaluation loses nothing. The
    evaluations are therefore read from metrics.jsonl.

    Args:
      train: options, such as `keep_best` and `patience`.

    Attributes:
      best: steps of the best checkpoints.
      stale: number of evaluations since the best one.
    """

    def __init__(self, train: TrainConfig):
        self.train = train
        policies: list[PreservationPolicy] = [LatestN(train.keep_checkpoints)]
        if train.keep_every_steps is not None:
            policies.append(EveryNSteps(train.keep_every_steps))
        self.others = AnyPreservationPolicy(policies)
        self.best: frozenset[int] = frozenset()
        self.stale = 0

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: PreservationContext
    ) -> Sequence[bool]:
        """Whether each of these checkpoints, in ascending order of `step`, is kept."""
        others = self.others.should_preserve(checkpoints, context=context)
        return [
            keep or info.step in self.best for keep, info in zip(others, checkpoints, strict=True)
        ]

    def update(self, history: Sequence[Mapping[str, Any]], steps: Container[int]):
        """Decides again, after an evaluation. All processes must call this.

        Args:
          history: the lines of metrics.jsonl. The first process decides for all, by its lines.
          steps: steps of the checkpoints.
        """
        lines = rank(history, self.train.best_metric)
        best = [line["step"] for line in lines if line["step"] in steps][: self.train.keep_best]
        padding = [-1] * (self.train.keep_best - len(best))
        numbers = np.array([count_stale(history, lines), *best, *padding])
        self.stale, *best = multihost_utils.broadcast_one_to_all(numbers).tolist()
        self.best = frozenset(best)

    @property
    def ends_run(self) -> bool:
        """Whether the run ends because its evaluations no longer improve."""
        return self.train.patience is not None and self.stale >= self.train.patience

    def explain_end(self, step: int) -> str:
        """Why the run ends early after this step, and how to train on."""
        return (
            f"step {step:,}: the held-out {self.train.best_metric} has not improved in "
            f"{self.stale} evaluations, so the run ends (train.patience = {self.train.patience}); "
            "to train on, set a larger train.patience, or None"
        )


def rank(history: Iterable[Mapping[str, Any]], metric: str) -> list[Mapping[str, Any]]:
    """The evaluations in the order of a metric: the best one first, the earlier of equal ones.

    Args:
      history: lines of metrics.jsonl. Evaluations that are not finite are left out.
      metric: 'loss' or 'accuracy'.
    """
    sign = -1 if metric == "accuracy" else 1
    lines = [line for line in _evaluations(history) if line.get(metric) is not None]
    return sorted(lines, key=lambda line: (sign * line[metric], line["step"]))


def count_stale(history: Iterable[Mapping[str, Any]], ranked: Sequence[Mapping[str, Any]]) -> int:
    """The number of evaluations after the best one; all of them, if none is finite."""
    best = ranked[0]["step"] if ranked else -1
    return sum(line["step"] > best for line in _evaluations(history))


def _evaluations(history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [line for line in history if line.get("split") == SPLIT]
