"""Checkpoints: everything a run needs to go on exactly where it stopped, as one atomic unit."""

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
from block_recurrent.parallel.processes import all_agree, is_main_process, wait_for_others
from block_recurrent.training.train_step import TrainState

# Where TensorFlow is installed, paths in buckets would go through it: seconds to import, and it
# takes a GPU's memory. Without it they go through gcsfs.
os.environ.setdefault("EPATH_USE_TF", "false")

ITEMS = ("params", "training")
KEEP = 3  # the newest ones; older ones are deleted
ORBAX_NOTES = ("_CHECKPOINT_METADATA",)  # times of beginning and end; nothing depends on them


class Manager(ocp.CheckpointManager):
    """One that leaves stop signals to `StopSignal`."""

    def reached_preemption(self, step: int) -> bool:
        # Orbax would ask the coordination service about this step, and that would take the number
        # for the last one that `StopSignal` asked about, which counts otherwise: a signal in the
        # step after a save would stop the processes of a continued run at a step far ahead.
        return False


class Checkpoints:
    """The folder `checkpoints/` of a run, one numbered folder a saved step.

    Each holds two items: `params`, all that evaluation and generation need, and `training`: the
    rest of the `TrainState` and the position in the data. Orbax writes in the background, and a
    folder gets its number only when it is whole, with checksums of its files. They are compared
    before anything is read: a damaged checkpoint is passed over, with a line that says why, and
    the one before it taken.

    Args:
      workdir: of the run.
      read_only: nothing is written.
      items: that will be read. Files of the others are not looked at.
    """

    def __init__(self, workdir: AnyPath, *, read_only: bool = False, items: Container[str] = ITEMS):
        self.folder = (workdir if in_bucket(workdir) else workdir.absolute()) / "checkpoints"
        self.read_only = read_only
        self._unread = [item for item in ITEMS if item not in items]
        self._whole: dict[int, bool] = {}
        self.manager = Manager(
            self.folder,
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEEP,
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,  # what a killed save has left
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        self.manager.close()

    @property
    def steps(self) -> list[int]:
        """Of all checkpoints, ascending, whole or not."""
        return sorted(self.manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step; None: nothing has been saved.

        Raises:
          UserError: all are damaged.
        """
        for step in reversed(self.steps):
            if self.is_whole(step):
                return step
        if self.steps:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged: put back one from a copy, or "
                "name another workdir to begin anew"
            )
        return None

    def is_whole(self, step: int) -> bool:
        """Whether every file to be read is as it was written. Reads them all, the first time.

        Says on standard error what is not. Several processes look at a share of the files each.
        """
        if in_bucket(self.folder):
            return True
        if step not in self._whole:
            folder = Path(self.folder) / str(step)
            found = find_damage(folder, jax.process_index(), jax.process_count(), self._unread)
            if found:
                print(f"checkpoint {step} is passed over: {found}", file=sys.stderr, flush=True)
            self._whole[step] = all_agree(found is None)
        return self._whole[step]

    def save(self, state: TrainState, position: LanePosition):
        """Saves in the background, once an earlier save is done; `state` may be donated after."""
        self.wait()
        self._saving = int(state.step)
        self.manager.save(
            self._saving,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                training=ocp.args.StandardSave(training_item(state, position)),
            ),
            force=True,  # or a step that Orbax finds too early would silently not be saved
        )

    def _seal(self):
        """Called by Orbax when all is written, before the folder gets its number.

        A bucket compares checksums of its own whenever an object is written or read.
        """
        if not in_bucket(self.folder):
            name = f"{self._saving}{ocp.path.step.TMP_DIR_SUFFIX}"
            write_checksums(Path(self.folder) / name, but=ORBAX_NOTES)

    def wait(self):
        """Returns when everything saved is on disk, or in the bucket."""
        self.manager.wait_until_finished()

    def go_back(self, every: int):
        """Drops what is newer than the newest checkpoint at a multiple of `every` steps.

        Others are there because a run was stopped, which must not decide where it goes back to.
        """
        self.wait()
        regular = [step for step in self.steps if step % every == 0]
        for step in self.steps:
            if regular and step > regular[-1]:
                self.manager.delete(step)

    def restore(
        self, abstract: TrainState, position: LanePosition
    ) -> tuple[TrainState, LanePosition]:
        """The newest state, laid out over devices as `abstract` says, and the data position.

        Damaged checkpoints that are newer are renamed, as they will be written again.
        """
        step = self.latest_step
        self._set_aside(later for later in self.steps if later > step)
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

    def _set_aside(self, steps: Iterable[int]):
        """Renames N to N.damaged."""
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
        """Parameters alone, on one device, wherever they lay when they were saved.

        Args:
          abstract: their shapes.
          step: of the checkpoint; None: the newest.

        Raises:
          UserError: there is no checkpoint, or one of other parameters.
        """
        step = self.latest_step if step is None else step
        if step is None:
            raise UserError(f"no checkpoint in {self.folder}: train first, or name another workdir")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = with_shardings(abstract, jax.tree.map(lambda _: here, abstract))
        place = self.folder / str(step)
        with ocp.StandardCheckpointer() as checkpointer:
            saved = checkpointer.metadata(place / "params").item_metadata.tree
        if shapes(saved) != shapes(abstract):
            raise UserError(
                f"{place} holds other parameters than config.gin describes: put back the "
                "config.gin with which the run was trained"
            )
        return self.manager.restore(
            step, args=ocp.args.Composite(params=ocp.args.StandardRestore(target))
        ).params


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """By path, as layers/0/ffn/hidden/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def training_item(state: TrainState, position: LanePosition) -> dict[str, Any]:
    """What a checkpoint holds beside the parameters."""
    fields = state._asdict()
    del fields["params"]
    return {"state": fields, "position": position._asdict()}


def with_shardings(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Shapes that also say where their arrays are to live."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
