"""Chooses the weights of a run: ``--step``, ``--weights`` and ``--average``."""

import sys
from typing import Any, Literal

import optax

from block_recurrent.config.train_options import TrainConfig
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath
from block_recurrent.reporting.metrics_log import HELD_OUT, read_metrics
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.retention import rank


def choose_step(
    checkpoints: Checkpoints,
    workdir: AnyPath,
    train: TrainConfig,
    step: int | Literal["best", "latest"],
    weights: Literal["raw", "averaged"] = "raw",
) -> int:
    """The step of the chosen checkpoint. All its files that will be read are intact.

    Args:
      checkpoints: of the run.
      workdir: folder of the run.
      train: options of the run; `best_metric` says what 'best' means.
      step: 'latest'; 'best', which prints its step and metric to standard error; or a step.
      weights: which weights will be used, and decide what 'best' is.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or the run has no averaged weights.
    """
    if weights == "averaged" and train.average_decay is None:
        raise UserError(
            f"--weights=averaged: {workdir} was trained without train.average_decay: leave it out "
            "(evaluate, generate and export also have --average=K, the mean of K checkpoints)"
        )
    if step == "latest" or not checkpoints.steps:
        if (latest := checkpoints.find_latest_intact()) is None:
            where = checkpoints.folder
            raise UserError(f"no checkpoint in {where}: train first, or name another workdir")
        return latest
    if step == "best":
        return _choose_best(checkpoints, workdir, train.best_metric, weights)
    if step not in checkpoints.steps:
        steps = ", ".join(map(str, checkpoints.steps))
        raise UserError(
            f"--step={step}: no such checkpoint in {checkpoints.folder}: choose from {steps}, best "
            "and latest"
        )
    if not checkpoints.is_intact(step):
        raise UserError(f"--step={step}: this checkpoint is damaged: choose another one, or latest")
    return step


def load_weights(
    checkpoints: Checkpoints,
    abstract: dict[str, Any],
    step: int,
    weights: Literal["raw", "averaged"] = "raw",
    average: int = 1,
) -> dict[str, Any]:
    """Loads the weights of a checkpoint, or the mean of several.

    Args:
      checkpoints: of the run.
      abstract: shapes of the parameters.
      step: step of an intact checkpoint.
      weights: which weights.
      average: the number of checkpoints, of which `step` is the newest. If there are several, their
        steps are printed to standard error.

    Raises:
      UserError: there are not that many intact checkpoints.
    """
    if average < 1:
        raise UserError(f"--average={average}: give the number of checkpoints, 1 or more")
    steps = [step]
    for earlier in reversed([each for each in checkpoints.steps if each < step]):
        if len(steps) < average and checkpoints.is_intact(earlier):
            steps.append(earlier)
    if len(steps) < average:
        raise UserError(
            f"--average={average}: only {len(steps)} intact checkpoint(s) up to step {step} in "
            f"{checkpoints.folder}: give a smaller number, or train on with a larger "
            "train.keep_checkpoints"
        )
    mean = checkpoints.restore_params(abstract, steps[0], weights)
    for number, earlier in enumerate(steps[1:], start=2):
        params = checkpoints.restore_params(abstract, earlier, weights)
        mean = optax.incremental_update(params, mean, 1 / number)
    if average > 1:
        text = ", ".join(f"{each:,}" for each in sorted(steps))
        print(f"--average={average}: steps {text}", file=sys.stderr, flush=True)
    return mean


def _choose_best(checkpoints: Checkpoints, workdir: AnyPath, metric: str, weights: str) -> int:
    """The step of the best intact checkpoint by the evaluations in metrics.jsonl."""
    lines = rank(read_metrics(workdir), HELD_OUT[weights], metric)
    for line in lines:
        if line["step"] in checkpoints.steps and checkpoints.is_intact(line["step"]):
            break
    else:
        raise UserError(
            f"--step=best: no intact checkpoint in {checkpoints.folder} has been evaluated: wait "
            "for the next evaluation of the run, or give --step=latest"
        )
    text = f"--step=best: step {line['step']:,}, held-out {metric} {line[metric]:.4f}"
    text += " of the averaged weights" if weights == "averaged" else ""
    if (better := lines[0])[metric] != line[metric]:
        text += f"; step {better['step']:,} was better ({better[metric]:.4f}), but is "
        text += "damaged" if better["step"] in checkpoints.steps else "not kept"
    print(text, file=sys.stderr, flush=True)
    return line["step"]
