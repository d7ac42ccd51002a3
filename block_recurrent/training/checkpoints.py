"""Checkpoints: all that a run needs to continue exactly where it stopped, saved atomically."""

import functools
import os
import shutil
import sys
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from block_recurrent.data.lanes import LanePosition
from block_recurrent.errors import UserError
from block_recurrent.files.checksums import find_damage, write_checksums
from block_recurrent.files.paths import AnyPath, in_bucket
from block_recurrent.parallel.processes import all_processes_true, is_main_process, wait_for_others
from block_recurrent.training.train_step import TrainState

# Paths in buckets go through gcsfs. By default they would go through TensorFlow where it is
# installed, which takes seconds to import and reserves a GPU's memory.
os.environ.setdefault("EPATH_USE_TF", "false")

ITEMS = ("params", "training")
MAX_TO_KEEP = 3  # the newest ones; older ones are deleted
UNCHECKED_FILES = ("_CHECKPOINT_METADATA",)  # times of start and end; nothing depends on them


class Manager(ocp.CheckpointManager):
    """A `CheckpointManager` that leaves stop signals to `StopSignal`."""

    def reached_preemption(self, step: int) -> bool:
        # Orbax would ask the coordination service about this step. The service would mistake the
        # number for one of `StopSignal`, which counts from the start of the process. In a continued
        # run, a signal right after a save would then stop the processes far too late.
        return False


class Checkpoints:
    """The folder `checkpoints/` of a run, with one numbered folder per saved step.

    Each checkpoint has two items. `params` is all that evaluation and generation need. `training`
    is the rest of the `TrainState` and the position in the data. Orbax writes in the background. A
    folder gets its number only when it is complete and has checksums of its files. These are
    verified before anything is read. A damaged checkpoint is skipped, with a line that says why,
    and the one before it is used.

    Args:
      workdir: of the run.
      read_only: if true, nothing is written.
      items: the items that will be read. Files of the others are not verified.
    """

    def __init__(self, workdir: AnyPath, *, read_only: bool = False, items: Container[str] = ITEMS):
        self.folder = (workdir if in_bucket(workdir) else workdir.absolute()) / "checkpoints"
        self.read_only = read_only
        self._unread = [item for item in ITEMS if item not in items]
        self._intact: dict[int, bool] = {}
        self._saving: int | None = None  # the step that is being saved
        self.manager = Manager(
            self.folder,
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=MAX_TO_KEEP,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,  # left by a save that was killed
                async_options=ocp.AsyncOptions(post_finalization_callback=self._add_checksums),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        self.manager.close()

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, ascending, damaged ones included."""
        return sorted(self.manager.all_steps())

    def find_latest_intact(self) -> int | None:
        """Finds the step of the newest checkpoint that is whole; None if nothing was saved.

        Reads every file of it the first time. All processes must call this.

        Raises:
          UserError: all checkpoints are damaged.
        """
        for step in reversed(self.steps):
            if self.is_intact(step):
                return step
        if self.steps:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged: restore one from a backup, or "
                "name another workdir to start again"
            )
        return None

    def is_intact(self, step: int) -> bool:
        """Verifies the checksums of all files that may be read; the first time it reads them all.

        Prints the first difference to standard error. Each process verifies a share of the files,
        and all must call this.
        """
        if in_bucket(self.folder):
            return True
        if step not in self._intact:
            folder = Path(self.folder) / str(step)
            found = find_damage(folder, jax.process_index(), jax.process_count(), self._unread)
            if found:
                print(f"checkpoint {step} is skipped: {found}", file=sys.stderr, flush=True)
            self._intact[step] = all_processes_true(found is None)
        return self._intact[step]

    def save(self, state: TrainState, position: LanePosition):
        """Starts to save in the background, after an earlier save. `state` may be donated then."""
        self.wait()
        self._saving = int(state.step)
        self.manager.save(
            self._saving,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                training=ocp.args.StandardSave(training_item(state, position)),
            ),
            force=True,  # else Orbax silently skips steps that it considers too early
        )

    def _add_checksums(self):
        """Writes checksums. Orbax calls this after the last file, before it renames the folder.

        Not needed in a bucket, which verifies its own checksums at every write and read.
        """
        if not in_bucket(self.folder):
            name = f"{self._saving}{ocp.path.step.TMP_DIR_SUFFIX}"
            write_checksums(Path(self.folder) / name, exclude=UNCHECKED_FILES)

    def wait(self):
        """Waits until everything saved is on disk, or in the bucket."""
        self.manager.wait_until_finished()

    def delete_after_regular(self, every: int):
        """Deletes what is newer than the newest checkpoint at a multiple of `every` steps.

        Other checkpoints come from stops. Where a run goes back to must not depend on these.
        """
        self.wait()
        regular = [step for step in self.steps if step % every == 0]
        for step in self.steps:
            if regular and step > regular[-1]:
                self.manager.delete(step)

    def restore(
        self, abstract: TrainState, position: LanePosition
    ) -> tuple[TrainState, LanePosition]:
        """Restores the newest whole checkpoint.

        Newer ones, which are damaged, are renamed, since the run will write these steps again.

        Args:
          abstract: shapes, and how to lay them out over the devices.
          position: any position of the same lanes.

        Returns:
          The state, and the position in the data.
        """
        step = self.find_latest_intact()
        self._rename_damaged(later for later in self.steps if later > step)
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                training=ocp.args.StandardRestore(training_item(abstract, position)),
            ),
        )
        training = restored.training
        state = TrainState(**training["state"], params=restored.params)
        return state, LanePosition(**training["position"])

    def _rename_damaged(self, steps: Iterable[int]):
        """Renames each checkpoint N to N.damaged."""
        if self.read_only or not (steps := list(steps)):
            return
        for step in steps if is_main_process() else []:
            folder = self.folder / str(step)
            aside = folder.with_name(f"{step}.damaged")
            if aside.exists():
                shutil.rmtree(aside)
            folder.rename(aside)
        wait_for_others("set_aside")
        self.manager.reload()

    def restore_params(self, abstract: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """Restores the parameters alone, onto one device, from any mesh.

        Args:
          abstract: their shapes.
          step: of the checkpoint; None for the newest.

        Raises:
          UserError: no checkpoint exists, or its parameters have other names or shapes.
        """
        step = self.find_latest_intact() if step is None else step
        if step is None:
            raise UserError(f"no checkpoint in {self.folder}: train first, or name another workdir")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = with_shardings(abstract, jax.tree.map(lambda _: here, abstract))
        place = self.folder / str(step)
        with ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.metadata(place / "params").item_metadata.tree
        if shapes(saved) != shapes(abstract):
            raise UserError(
                f"{place} has other parameters than config.gin describes: restore the config.gin "
                "that the run was trained with"
            )
        return self.manager.restore(
            step, args=ocp.args.Composite(params=ocp.args.StandardRestore(target))
        ).params


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path, as layers/0/ffn/hidden/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def training_item(state: TrainState, position: LanePosition) -> dict[str, Any]:
    """The item of a checkpoint that holds all but the parameters."""
    fields = state._asdict()
    del fields["params"]
    return {"state": fields, "position": position._asdict()}


def with_shardings(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Attaches shardings to shapes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
