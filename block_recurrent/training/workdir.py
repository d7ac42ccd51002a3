"""The folder of a run: its configuration, written once and never another's."""

import contextlib
from collections.abc import Iterator, Sequence

from block_recurrent.config.run_config import RunConfig, differences, load, to_gin
from block_recurrent.errors import UserError
from block_recurrent.files.lock import LockedError, file_lock
from block_recurrent.files.paths import AnyPath, explain_path_errors, in_bucket
from block_recurrent.files.writing import atomic_write
from block_recurrent.parallel.processes import is_main_process, wait_for_others

LOCK = "lock"

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
    with explain_path_errors(workdir, "read"):
        there = path.is_file()
    if not there:
        raise UserError(f"{workdir} holds no run (no config.gin): train first, or name another")
    return load([str(path)], [])


def record_config(workdir: AnyPath, config: RunConfig):
    """Makes the folder and writes config.gin, or finds that it holds this configuration.

    A run may be continued for more steps and on other devices, if all else is equal. (Schedules
    that end with the run are fixed by `optimizer.decay_steps`, which counts as well.)

    Raises:
      UserError: it holds another one, or cannot be written.
    """
    path = workdir / "config.gin"
    with explain_path_errors(workdir, "read"):
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
    if not is_main_process():
        return
    with explain_path_errors(workdir, "write to"):
        workdir.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(to_gin(config).encode())


@contextlib.contextmanager
def workdir_lock(workdir: AnyPath) -> Iterator[None]:
    """While entered, no other training can enter the folder; it is made if it is not there.

    The first of several processes holds the lock for all of them; see `file_lock`. A bucket has
    no locks.

    Raises:
      UserError: another training has the folder, or it cannot be written.
    """
    if not is_main_process() or in_bucket(workdir):
        yield
        return
    with contextlib.ExitStack() as stack:
        with explain_path_errors(workdir, "write to"):
            workdir.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(file_lock(workdir / LOCK))
            except LockedError as error:
                raise UserError(
                    f"{workdir} is in use by another training ({error}): wait for it to end, stop "
                    "it, or name another --workdir"
                ) from error
        yield


def _hint(different: Sequence[str]) -> str:
    """What somebody may not know who has only asked for more steps."""
    if not any(line.startswith("optimizer.decay_steps") for line in different):
        return ""
    return (
        " (the schedule ends with train.num_steps unless optimizer.decay_steps is set: set it to "
        "the number in the workdir to go on beyond that)"
    )
