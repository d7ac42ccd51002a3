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

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.reporting.metrics_log import HELD_OUT


class Retention(PreservationPolicy):
    """Decides which checkpoints are kept, and whether the run ends early.

    It is a policy of Orbax. Orbax knows the metrics of a checkpoint only if it is saved after its
    evaluation, but a run saves before it, so that a kill during the evaluation loses nothing. The
    evaluations are therefore read from metrics.jsonl. If the run averages its parameters, the best
    checkpoints for the raw and for the averaged weights are kept, and the run goes on as long as
    either improves.

    Args:
      train: options, such as `keep_best` and `patience`.

    Attributes:
      best: steps of the best checkpoints.
      stale: number of evaluations since the best one.
      splits: the evaluations that decide.
    """

    def __init__(self, train: TrainConfig):
        self.train = train
        policies: list[PreservationPolicy] = [LatestN(train.keep_checkpoints)]
        if train.keep_every_steps is not None:
            policies.append(EveryNSteps(train.keep_every_steps))
        self.others = AnyPreservationPolicy(policies)
        used = HELD_OUT if train.average_decay is not None else ["raw"]
        self.splits = [HELD_OUT[weights] for weights in used]
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
        keep, numbers = self.train.keep_best, []
        for split in self.splits:
            lines = rank(history, split, self.train.best_metric)
            best = [line["step"] for line in lines if line["step"] in steps][:keep]
            numbers += [[count_stale(history, split, lines), *best, *[-1] * (keep - len(best))]]
        agreed = multihost_utils.broadcast_one_to_all(np.array(numbers, np.int32))
        self.stale = int(agreed[:, 0].min())
        self.best = frozenset(agreed[:, 1:].ravel().tolist())

    @property
    def ends_run(self) -> bool:
        """Whether the run ends because its evaluations no longer improve."""
        return self.train.patience is not None and self.stale >= self.train.patience

    def explain_end(self, step: int) -> str:
        """Why the run ends early after this step, and how to train on."""
        metric, patience = self.train.best_metric, self.train.patience
        evaluations = f"{self.stale} evaluation{'s' if self.stale > 1 else ''}"
        return (
            f"step {step:,}: the held-out {metric} has not improved in {evaluations}, so the run "
            f"ends (train.patience = {patience}); to train on, set a larger train.patience, or None"
        )


def rank(history: Iterable[Mapping[str, Any]], split: str, metric: str) -> list[Mapping[str, Any]]:
    """The evaluations in the order of a metric: the best one first, the earlier of equal ones.

    Those that are not finite are left out, and so are those of another part of the documents.

    Args:
      history: lines of metrics.jsonl.
      split: one of `HELD_OUT`.
      metric: 'loss' or 'accuracy'.
    """
    sign = -1 if metric == "accuracy" else 1
    lines = [line for line in _evaluations(history, split) if line.get(metric) is not None]
    return sorted(lines, key=lambda line: (sign * line[metric], line["step"]))


def count_stale(
    history: Iterable[Mapping[str, Any]], split: str, ranked: Sequence[Mapping[str, Any]]
) -> int:
    """The number of evaluations after the best one; all of them, if none is finite."""
    best = ranked[0]["step"] if ranked else -1
    return sum(line["step"] > best for line in _evaluations(history, split))


def _evaluations(history: Iterable[Mapping[str, Any]], split: str) -> list[Mapping[str, Any]]:
    """The evaluations of the same text as the newest one; `train.eval_tokens` may have changed."""
    found = [line for line in history if line.get("split") == split]
    return [line for line in found if line.get("tokens") == found[-1].get("tokens")]
