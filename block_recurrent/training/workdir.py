"""The folder of a run: its configuration, its lock, and its model."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from flax import nnx

from block_recurrent.config.data_options import PLACES, DataConfig
from block_recurrent.config.gin_files import read_bindings
from block_recurrent.config.run_config import RunConfig, load, to_gin
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.vocabularies import ByteVocabulary, Vocabulary
from block_recurrent.data.vocabulary_storage import saved_vocabulary
from block_recurrent.errors import UserError
from block_recurrent.files.lock import LockedError, file_lock
from block_recurrent.files.paths import AnyPath, explain_path_errors, in_bucket, workdir_path
from block_recurrent.files.writing import atomic_write
from block_recurrent.model.transformer import BlockRecurrentTransformer, abstract_model
from block_recurrent.parallel.processes import is_main_process, wait_for_others
from block_recurrent.training.checkpoints import WEIGHTS, Checkpoints
from block_recurrent.training.selection import choose_step, load_weights

CONFIG = "config.gin"
LOCK = "lock"


class Run(NamedTuple):
    """Configuration of a run, and its model after `step` steps."""

    config: RunConfig
    model: BlockRecurrentTransformer
    step: int


def load_run(
    workdir: str | AnyPath,
    step: int | Literal["best", "latest"] = "latest",
    weights: Literal["raw", "averaged"] = "raw",
    average: int = 1,
    *,
    bindings: Sequence[str] = (),
) -> Run:
    """Loads a checkpoint of a run.

    Args:
      workdir: the folder of the run.
      step: which checkpoint; see `choose_step`.
      weights: the parameters after that step, or their moving average.
      average: of how many checkpoints the mean is taken; see `load_weights`.
      bindings: where its corpus lies now; see `read_config`.

    Raises:
      UserError: the folder has no run, or the run has no such checkpoint or weights.
    """
    workdir = workdir_path(workdir)
    config = read_config(workdir, bindings)
    graphdef, abstract = abstract_model(config.model)
    with Checkpoints(workdir, read_only=True, items=[WEIGHTS[weights]]) as checkpoints:
        step = choose_step(checkpoints, workdir, config.train, step, weights)
        params = load_weights(checkpoints, abstract, step, weights, average)
        return Run(config, nnx.merge(graphdef, params), step)


def run_vocabulary(workdir: AnyPath, data: DataConfig) -> Vocabulary:
    """The vocabulary of a run: the copy in its folder, or that of its corpus.

    Args:
      workdir: the folder of the run.
      data: the run's corpus, which is not needed if the folder has a copy of the vocabulary.

    Raises:
      UserError: neither is there, or the copy is not what the model was trained with.
    """
    if data.vocabulary == ByteVocabulary.name:
        return ByteVocabulary()
    with explain_path_errors(workdir, "read"):
        found = saved_vocabulary(workdir)
    if found is None:
        return load_documents(data)["train"].vocabulary
    if data.vocabulary not in (None, found.name):
        raise UserError(
            f"{workdir} has a copy of the vocabulary {found.name}, but the model was trained with "
            f"{data.vocabulary}: restore the copy"
        )
    return found


def read_config(workdir: AnyPath, bindings: Sequence[str] = ()) -> RunConfig:
    """Reads the configuration of the run in `workdir`.

    Args:
      workdir: the folder of the run.
      bindings: where its corpus lies now, such as "data.path = 'moved/texts'".

    Raises:
      UserError: config.gin is missing or has mistakes, or a binding sets anything but the corpus.
    """
    for binding in bindings:
        names = {f"{one.section}.{one.name}" for one in read_bindings([], [binding])}
        if not names <= set(PLACES):
            raise UserError(
                f"--gin_bindings={binding!r}: here it can only say where the corpus of the run "
                f"lies now, with {PLACES[0]}, {PLACES[1]} or {PLACES[2]}"
            )
    if not has_config(workdir):
        raise UserError(
            f"{workdir} contains no run (no config.gin): train first, or name another folder"
        )
    return load([str(workdir / CONFIG)], bindings)


def has_config(workdir: AnyPath) -> bool:
    """Whether the folder has a config.gin."""
    with explain_path_errors(workdir, "read"):
        return (workdir / CONFIG).is_file()


def record_config(workdir: AnyPath, config: RunConfig):
    """Writes config.gin, and creates the folder if needed. See `check_changes` for what may change.

    Raises:
      UserError: the folder cannot be written.
    """
    wait_for_others("record_config")  # until all have read the file
    if not is_main_process():
        return
    with explain_path_errors(workdir, "write to"):
        workdir.mkdir(parents=True, exist_ok=True)
        with atomic_write(workdir / CONFIG) as file:
            file.write(to_gin(config).encode())


@contextlib.contextmanager
def workdir_lock(workdir: AnyPath) -> Iterator[None]:
    """Locks the folder against other training runs inside the context. Creates it if needed.

    With several processes, the first one holds the lock for all; see `file_lock`. A folder in a
    bucket is not locked.

    Raises:
      UserError: another training run uses the folder, or it cannot be written.
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
