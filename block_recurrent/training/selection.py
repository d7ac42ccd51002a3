"""Chooses a checkpoint of a run: ``--step=N``, ``best`` or ``latest``."""

import sys
from typing import Literal

from block_recurrent.config.options import TrainConfig
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath
from block_recurrent.reporting.metrics_log import read_history
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.retention import rank


def choose_step(
    checkpoints: Checkpoints,
    workdir: AnyPath,
    train: TrainConfig,
    step: int | Literal["best", "latest"],
) -> int:
    """The step of the chosen checkpoint. All its files that will be read are intact.

    Args:
      checkpoints: of the run.
      workdir: folder of the run.
      train: options of the run; `best_metric` says what 'best' means.
      step: 'latest'; 'best', which prints its step and metric to standard error; or a step.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    if step == "latest" or not checkpoints.steps:
        if (latest := checkpoints.find_latest_intact()) is None:
            where = checkpoints.folder
            raise UserError(f"no checkpoint in {where}: train first, or name another workdir")
        return latest
    if step == "best":
        return _choose_best(checkpoints, workdir, train.best_metric)
    if step not in checkpoints.steps:
        steps = ", ".join(map(str, checkpoints.steps))
        raise UserError(
            f"--step={step}: no such checkpoint in {checkpoints.folder}: choose from {steps}, best "
            "and latest"
        )
    if not checkpoints.is_intact(step):
        raise UserError(f"--step={step}: this checkpoint is damaged: choose another one, or latest")
    return step


def _choose_best(checkpoints: Checkpoints, workdir: AnyPath, metric: str) -> int:
    """The step of the best intact checkpoint by the evaluations in metrics.jsonl."""
    lines = rank(read_history(workdir / "metrics.jsonl"), metric)
    for line in lines:
        if line["step"] in checkpoints.steps and checkpoints.is_intact(line["step"]):
            break
    else:
        raise UserError(
            f"--step=best: no intact checkpoint in {checkpoints.folder} has been evaluated: wait "
            "for the next evaluation of the run, or give --step=latest"
        )
    text = f"--step=best: step {line['step']:,}, held-out {metric} {line[metric]:.4f}"
    if (better := lines[0])[metric] != line[metric]:
        text += f"; step {better['step']:,} was better ({better[metric]:.4f}), but is "
        text += "damaged" if better["step"] in checkpoints.steps else "not kept"
    print(text, file=sys.stderr, flush=True)
    return line["step"]
