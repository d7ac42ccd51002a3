"""Checkpoints: everything a run needs to go on exactly where it stopped, as one atomic unit."""

import functools
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from block_recurrent.data.lanes import LanePosition
from block_recurrent.errors import UserError
from block_recurrent.train_step import TrainState

KEEP = 3  # the newest ones; older ones are deleted


class Checkpoints:
    """The folder `checkpoints/` of a run, one numbered folder a saved step.

    Each holds two items: `params`, all that evaluation and generation need, and `training`: the
    rest of the `TrainState` and the position in the data. Orbax writes in the background, and a
    folder gets its number only when it is whole.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False):
        self.folder = workdir.absolute() / "checkpoints"
        self.manager = ocp.CheckpointManager(
            self.folder,
            item_names=("params", "training"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEEP, create=not read_only, read_only=read_only
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_):
        self.manager.close()

    @property
    def latest_step(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self.manager.latest_step()

    @property
    def steps(self) -> list[int]:
        """Of all whole checkpoints, ascending."""
        return sorted(self.manager.all_steps())

    def save(self, state: TrainState, position: LanePosition):
        """Saves in the background, once an earlier save is done; `state` may be donated after."""
        self.manager.save(
            int(state.step),
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                training=ocp.args.StandardSave(training_item(state, position)),
            ),
        )

    def wait(self):
        """Returns when everything saved is on disk."""
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
        """The newest state, laid out over devices as `abstract` says, and the data position."""
        restored = self.manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                training=ocp.args.StandardRestore(training_item(abstract, position)),
            ),
        )
        training = restored.training
        state = TrainState(**training["state"], params=restored.params)
        return state, LanePosition(**training["position"])

    def restore_params(self, abstract: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """Parameters alone, on one device, wherever they lay when they were saved.

        Args:
          abstract: their shapes.
          step: of the checkpoint; None: the newest.

        Raises:
          UserError: there is no checkpoint, or one of other parameters.
        """
        if self.latest_step is None:
            raise UserError(f"no checkpoint in {self.folder}: train first, or name another workdir")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = with_shardings(abstract, jax.tree.map(lambda _: here, abstract))
        step = self.latest_step if step is None else step
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
