"""Checkpoints: everything that a run needs to continue exactly where it stopped."""

import functools
import os
import shutil
import sys
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from block_recurrent.data.lanes import LanePosition
from block_recurrent.errors import UserError
from block_recurrent.files.checksums import find_damage, write_checksums
from block_recurrent.files.paths import AnyPath, in_bucket
from block_recurrent.parallel.processes import all_processes_true, is_main_process, wait_for_others
from block_recurrent.training.retention import Retention
from block_recurrent.training.train_step import TrainState

# Read and write buckets with gcsfs. By default, TensorFlow would be used if it is installed, which
# takes seconds to import and reserves a GPU's memory.
os.environ.setdefault("EPATH_USE_TF", "false")

WEIGHTS = {"raw": "params", "averaged": "averaged"}  # which weights → their item
ITEMS = (*WEIGHTS.values(), "training")
UNCHECKED_FILES = ("_CHECKPOINT_METADATA",)  # contains times; nothing depends on it


class Manager(ocp.CheckpointManager):
    """A `CheckpointManager` that ignores stop signals, which `StopSignal` handles."""

    def reached_preemption(self, step: int) -> bool:
        # Orbax would ask the coordination service about this step. `StopSignal` asks it too, but
        # counts steps from the start of the process. In a continued run, Orbax's larger number
        # would make the processes stop far too late after a signal.
        return False


class Checkpoints:
    """The folder `checkpoints/` of a run, with one numbered folder per saved step.

    Each checkpoint has two items. `params` is what evaluation and generation need. `training` is
    the rest of the `TrainState` and the position in the data. A third item, `averaged`, is there if
    the run averages its parameters. Orbax writes in the background. A folder gets its number as a
    name only when it is complete and has checksums of its files. The checksums are verified before
    anything is read. If a checkpoint is damaged, the reason is printed and the previous one is
    used.

    Args:
      workdir: folder of the run.
      read_only: whether nothing must be written.
      items: the items that will be read. Files of other items are not verified.
      keep: decides at every save which checkpoints are kept; None: all.
    """

    def __init__(
        self,
        workdir: AnyPath,
        *,
        read_only: bool = False,
        items: Container[str] = ITEMS,
        keep: Retention | None = None,
    ):
        self.folder = (workdir if in_bucket(workdir) else workdir.absolute()) / "checkpoints"
        self.read_only = read_only
        self._unread = [item for item in ITEMS if item not in items]
        self._intact: dict[int, bool] = {}
        self._saving: int | None = None  # the step that is being saved
        self.manager = Manager(
            self.folder,
            item_names=ITEMS,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
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
        """The steps of all checkpoints in ascending order, including damaged ones."""
        return sorted(self.manager.all_steps())

    def find_latest_intact(self) -> int | None:
        """Finds the step of the newest checkpoint that is not damaged; None if nothing was saved.

        The first call reads all its files. All processes must call this.

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
        """Whether a checkpoint is not damaged. The first call for a step reads all its files.

        Verifies the checksums of the files that may be read, and prints the first difference to
        standard error. Each process verifies a part of the files, so all must call this.
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
        """Starts to save in the background. Afterwards, `state` may be donated.

        Waits for an earlier save to finish first.
        """
        self.wait()
        self._saving = int(state.step)
        self._intact.pop(self._saving, None)  # of a damaged checkpoint that this one replaces
        self.manager.save(
            self._saving,
            args=ocp.args.Composite(
                training=ocp.args.StandardSave(training_item(state, position)),
                **{name: ocp.args.StandardSave(tree) for name, tree in weights_of(state).items()},
            ),
            force=True,  # else Orbax silently skips steps that it considers too early
        )

    def _add_checksums(self):
        """Writes the checksums. Orbax calls this after the last file, before it renames the folder.

        A bucket needs none, because it verifies its own checksums at every write and read.
        """
        if not in_bucket(self.folder):
            name = f"{self._saving}{ocp.path.step.TMP_DIR_SUFFIX}"
            write_checksums(Path(self.folder) / name, exclude=UNCHECKED_FILES)

    def wait(self):
        """Waits until everything is on disk or in the bucket."""
        self.manager.wait_until_finished()

    def delete_unscheduled(self, is_scheduled: Callable[[int], bool]):
        """Deletes checkpoints newer than the newest one that was saved on schedule.

        The deleted checkpoints were saved when the run was stopped. Where a run returns to must not
        depend on stops.

        Args:
          is_scheduled: whether a checkpoint is due after this many steps.
        """
        self.wait()
        regular = [step for step in self.steps if is_scheduled(step)]
        for step in self.steps:
            if regular and step > regular[-1]:
                self.manager.delete(step)

    def restore(
        self, abstract: TrainState, position: LanePosition
    ) -> tuple[TrainState, LanePosition]:
        """Restores the newest checkpoint that is not damaged.

        Newer, damaged checkpoints are renamed, because the run will write their steps again.

        Args:
          abstract: shapes with shardings.
          position: any position of the same lanes.

        Returns:
          The state, and the position in the data.
        """
        step = self.find_latest_intact()
        self._rename_damaged(later for later in self.steps if later > step)
        target = training_item(abstract, position)
        if "turn" not in self._metadata(step, "training")["position"]:
            del target["position"]["turn"]  # saved before lanes took turns
        weights = weights_of(abstract)
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                training=ocp.args.StandardRestore(target),
                **{name: ocp.args.StandardRestore(tree) for name, tree in weights.items()},
            ),
        )
        training = restored.training
        state = TrainState(**training["state"], **{name: restored[name] for name in weights})
        return state, LanePosition(**{"turn": position.turn} | training["position"])

    def _metadata(self, step: int, item: str) -> PyTree:
        """Shapes of what a checkpoint contains."""
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.metadata(self.folder / str(step) / item).item_metadata.tree

    def _rename_damaged(self, steps: Iterable[int]):
        """Renames the folder of each of these checkpoints from N to N.damaged."""
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

    def restore_params(
        self, abstract: dict[str, Any], step: int, weights: Literal["raw", "averaged"] = "raw"
    ) -> dict[str, Any]:
        """Restores only the parameters, to one device. They may have been saved on any mesh.

        Args:
          abstract: shapes of the parameters.
          step: step of a checkpoint that is not damaged.
          weights: the parameters of the step, or their moving average.

        Raises:
          UserError: its parameters have other names or shapes.
        """
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = with_shardings(abstract, jax.tree.map(lambda _: here, abstract))
        place = self.folder / str(step)
        item = WEIGHTS[weights]
        if shapes(self._metadata(step, item)) != shapes(abstract):
            raise UserError(
                f"{place} has other parameters than config.gin describes: restore the config.gin "
                "that the run was trained with"
            )
        return self.manager.restore(
            step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(target)})
        )[item]


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf by its path, such as layers/0/ffn/hidden/kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keystr = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return {keystr(path): tuple(leaf.shape) for path, leaf in leaves}


def training_item(state: TrainState, position: LanePosition) -> dict[str, Any]:
    """The item of a checkpoint with everything except the parameters."""
    fields = state._asdict()
    for name in WEIGHTS.values():
        del fields[name]
    return {"state": fields, "position": position._asdict()}


def weights_of(state: TrainState) -> dict[str, Any]:
    """The other items of a checkpoint: the parameters, and their average if there is one."""
    items = {name: getattr(state, name) for name in WEIGHTS.values()}
    return {name: tree for name, tree in items.items() if tree is not None}


def with_shardings(abstract: PyTree, shardings: PyTree) -> PyTree:
    """Attaches shardings to shapes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
