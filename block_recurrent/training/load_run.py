"""The model of a run."""

from typing import NamedTuple

from flax import nnx

from block_recurrent.config.run_config import RunConfig
from block_recurrent.files.paths import AnyPath, workdir_path
from block_recurrent.model.transformer import BlockRecurrentTransformer, abstract_model
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.workdir import read_config


class Run(NamedTuple):
    """What a run has come to: its configuration, and the model after `step` steps."""

    config: RunConfig
    model: BlockRecurrentTransformer
    step: int


def load_run(workdir: str | AnyPath) -> Run:
    """The newest checkpoint of a run.

    Raises:
      UserError: there is no run in the folder, or no checkpoint yet.
    """
    workdir = workdir_path(workdir)
    config = read_config(workdir)
    graphdef, abstract = abstract_model(config.model)
    with Checkpoints(workdir, read_only=True, items=["params"]) as checkpoints:
        params = checkpoints.restore_params(abstract)
        return Run(config, nnx.merge(graphdef, params), checkpoints.latest_step)
