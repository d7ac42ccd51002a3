"""The model of a run."""

from typing import NamedTuple

from flax import nnx

from block_recurrent.checkpoints import Checkpoints
from block_recurrent.configs import RunConfig
from block_recurrent.model import BlockRecurrentTransformer
from block_recurrent.run_folder import AnyPath, run_folder
from block_recurrent.train_step import abstract_model
from block_recurrent.workdir import read_config


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
    workdir = run_folder(workdir)
    config = read_config(workdir)
    graphdef, abstract = abstract_model(config.model)
    with Checkpoints(workdir, read_only=True, items=["params"]) as checkpoints:
        params = checkpoints.restore_params(abstract)
        return Run(config, nnx.merge(graphdef, params), checkpoints.latest_step)
