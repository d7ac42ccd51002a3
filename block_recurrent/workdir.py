"""The folder of a run: its configuration, written once and never another's."""

from collections.abc import Sequence

from block_recurrent.configs import RunConfig, differences, load, to_gin
from block_recurrent.distributed import is_first, wait_for_others
from block_recurrent.errors import UserError
from block_recurrent.run_folder import AnyPath, reaching
from block_recurrent.whole_file import whole_file

# These say how long a run goes on, what it reports, where it runs and what it does when numbers go
# wrong, not what it computes.
MAY_CHANGE = (
    "train.num_steps",
    "train.log_every_steps",
    "train.eval_every_steps",
    "train.checkpoint_every_steps",
    "train.sample_tokens",
    "train.sample_prompt",
    "train.wandb_project",
    "train.on_nonfinite",
    "train.max_nonfinite_steps",
    "mesh.",
    "distributed.",
    "watch.",
)


def read_config(workdir: AnyPath) -> RunConfig:
    """The configuration of the run in `workdir`.

    Raises:
      UserError: there is none.
    """
    path = workdir / "config.gin"
    with reaching(workdir, "read"):
        there = path.is_file()
    if not there:
        raise UserError(f"{workdir} holds no run (no config.gin): train first, or name another")
    return load([str(path)], [])


def claim(workdir: AnyPath, config: RunConfig):
    """Makes the folder and writes config.gin, or finds that it holds this configuration.

    A run may be continued for more steps and on other devices, if all else is equal. (Schedules
    that end with the run are fixed by `optimizer.decay_steps`, which counts as well.)

    Raises:
      UserError: it holds another one, or cannot be written.
    """
    path = workdir / "config.gin"
    with reaching(workdir, "read"):
        there = path.exists()
    if there:
        different = differences(read_config(workdir), config)
        different = [line for line in different if not line.startswith(MAY_CHANGE)]
        if different:
            raise UserError(
                f"{workdir} holds a run with another configuration ({'; '.join(different)}): "
                f"name another --workdir, or make the configurations equal{_hint(different)}"
            )
    wait_for_others("claim")  # until all have read what is there
    if not is_first():
        return
    with reaching(workdir, "write to"):
        workdir.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(to_gin(config).encode())


def _hint(different: Sequence[str]) -> str:
    """What somebody may not know who has only asked for more steps."""
    if not any(line.startswith("optimizer.decay_steps") for line in different):
        return ""
    return (
        " (the schedule ends with train.num_steps unless optimizer.decay_steps is set: set it to "
        "the number in the workdir to go on beyond that)"
    )
