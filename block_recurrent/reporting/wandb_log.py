"""Metrics and texts of a run on Weights & Biases."""

import html
import secrets
from collections.abc import Mapping
from typing import Any

from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import AnyPath, in_bucket
from block_recurrent.files.writing import atomic_write


def check_wandb(project: str | None):
    """Raises UserError if a project is given and the package is missing."""
    if project is None:
        return
    try:
        from wandb import init  # noqa: F401  a folder named wandb can be imported, but lacks init
    except ImportError as error:
        raise UserError(
            f"train.wandb_project = '{project}' needs the package wandb: pip install wandb, or "
            "set train.wandb_project = None"
        ) from error


class WandbLog:
    """Logs to a run on Weights & Biases. A continued training continues the same W&B run.

    The id of the W&B run is kept in the file `wandb_id` in the run's folder. The x-axis is the
    metric `step`, because W&B's own counter cannot go back. After a kill, the steps since the last
    checkpoint appear twice, with the same numbers.

    Args:
      project: W&B project; created if needed.
      workdir: the folder of the run, where W&B also keeps data that it has not sent yet. (If the
        run is in a bucket, W&B uses the current folder.)
      config: configuration that W&B shows with the numbers.

    Raises:
      UserError: W&B rejects the run.
    """

    def __init__(self, project: str, workdir: AnyPath, config: Mapping[str, Any]):
        import wandb

        self._html = wandb.Html
        try:
            self._run = wandb.init(
                project=project,
                id=run_id(workdir),
                resume="allow",
                name=workdir.resolve().name,
                dir=None if in_bucket(workdir) else str(workdir),
                config=dict(config),
                allow_val_change=True,  # when a run is continued for more steps
                reinit="create_new",  # leaves other runs of the same process alone
                settings=wandb.Settings(console="off"),  # capturing would break the progress bar
            )
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases refuses the run ({first_line(error)}): wandb login, or set "
                "WANDB_MODE=offline in the environment, or train.wandb_project = None"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, metrics: Mapping[str, int | float]):
        """Logs metrics; see `MetricsLog.write`."""
        named = {f"{split}/{name}": number for name, number in metrics.items()}
        self._run.log({"step": step, **named})

    def write_text(self, step: int, prompt: str, text: str):
        """Logs a text; see `MetricsLog.write_text`. The text of the model is bold."""
        page = f"<pre>{html.escape(prompt)}<b>{html.escape(text)}</b></pre>"
        shown = self._html(page, inject=False, data_is_not_path=True)
        self._run.log({"step": step, "held_out/text": shown})

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, kind, *_):
        self._run.finish(exit_code=1 if kind else 0)


def run_id(workdir: AnyPath) -> str:
    """The W&B id of the run in this folder. The first call draws a random id and stores it."""
    path = workdir / "wandb_id"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(secrets.token_hex(4).encode())
    return path.read_text()
