"""A copy of what a run reports, for Weights & Biases."""

import html
import secrets
from collections.abc import Mapping
from typing import Any

from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import AnyPath, in_bucket
from block_recurrent.files.writing import atomic_write


def check_wandb(project: str | None):
    """Raises UserError if a run that is to report there lacks the package."""
    if project is None:
        return
    try:
        from wandb import init  # noqa: F401  a mere folder called wandb has none
    except ImportError as error:
        raise UserError(
            f"train.wandb_project = '{project}' needs a package of its own: pip install wandb, or "
            "set train.wandb_project = None"
        ) from error


class WandbLog:
    """One run on Weights & Biases, however often it is stopped and goes on.

    Its id is kept in the file `wandb_id` of the run's folder. Numbers stand over a metric of their
    own called `step`, since W&B's counter cannot go back: after a kill the steps since the last
    checkpoint are there twice, with the same numbers.

    Args:
      project: to which the run belongs; made if it is not there.
      workdir: the folder of the run, where W&B keeps what it has yet to send (for a bucket,
        in the current folder).
      config: shown beside the numbers.

    Raises:
      UserError: W&B does not let the run in.
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
                allow_val_change=True,  # of a run that goes on for more steps
                reinit="create_new",  # leaves a run of the notebook's own alone
                settings=wandb.Settings(console="off"),  # which would break the progress bar
            )
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases refuses the run ({first_line(error)}): wandb login, or set "
                "WANDB_MODE=offline in the environment, or train.wandb_project = None"
            ) from error
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, split: str, metrics: Mapping[str, int | float]):
        """As in `MetricsLog`."""
        named = {f"{split}/{name}": number for name, number in metrics.items()}
        self._run.log({"step": step, **named})

    def write_text(self, step: int, prompt: str, text: str):
        """As in `MetricsLog`; what the model has written is in bold type."""
        page = f"<pre>{html.escape(prompt)}<b>{html.escape(text)}</b></pre>"
        shown = self._html(page, inject=False, data_is_not_path=True)
        self._run.log({"step": step, "held_out/text": shown})

    def __enter__(self) -> "WandbLog":
        return self

    def __exit__(self, kind, *_):
        self._run.finish(exit_code=1 if kind else 0)


def run_id(workdir: AnyPath) -> str:
    """W&B's id of the run in this folder, drawn for the first time that it is asked for."""
    path = workdir / "wandb_id"
    if not path.exists():
        with atomic_write(path) as file:
            file.write(secrets.token_hex(4).encode())
    return path.read_text()
