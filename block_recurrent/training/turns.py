"""More lanes than rows: lanes take turns in a training step, and each keeps its memory."""

import jax
from jaxtyping import Array, Int, PyTree

from block_recurrent.data.lanes import Batch
from block_recurrent.parallel.sharding import Layout
from block_recurrent.training.train_step import StepMetrics, TrainState, TrainStep


def in_turns(step: TrainStep, layout: Layout, shardings: TrainState) -> TrainStep:
    """Returns a step for a state with the memory of all lanes.

    It takes the memory of the lanes whose turn it is, runs the step on it, and puts it back. These
    are separate programs, because in a single one XLA would copy the memory of all lanes. The lanes
    of a row are on one device, so taking and putting moves nothing between devices.

    Args:
      step: the training step for one lane per row.
      layout: how arrays are laid out over the mesh.
      shardings: a `TrainState` of shardings, for rows and lanes alike.
    """
    own = shardings.model, shardings.finite

    def take_rows(_, lanes, turn, __):
        return take_turn(lanes, turn)

    def put_rows(_, lanes, rows, __):
        return put_turn(lanes, *rows)

    take = jax.jit(layout.by_rows(take_rows), out_shardings=own)
    put = jax.jit(layout.by_rows(put_rows), out_shardings=own, donate_argnums=1)

    def step_in_turns(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        lanes, turn = (state.model, state.finite), batch.turn
        model, finite = take(None, lanes, turn, None)
        state = state._replace(model=model, finite=finite)
        state, results = step(state, batch._replace(turn=None))
        model, finite = put(None, lanes, (turn, (state.model, state.finite)), None)
        return state._replace(model=model, finite=finite), results

    return step_in_turns


def take_turn(lanes: PyTree, turn: Int[Array, " B"]) -> PyTree:
    """Selects the lanes whose turn it is, ``[B, …]`` of ``[B · P, …]``: lane i · P + turn in row i.

    The lanes of a row are adjacent, so that each device has all lanes of its rows.
    """

    def take(leaf):
        of_rows = leaf.reshape(len(turn), -1, *leaf.shape[1:])
        return jax.lax.dynamic_index_in_dim(of_rows, turn[0], axis=1, keepdims=False)

    return jax.tree.map(take, lanes)


def put_turn(lanes: PyTree, turn: Int[Array, " B"], new: PyTree) -> PyTree:
    """Replaces the lanes whose turn it was; see `take_turn`."""

    def put(leaf, row):
        of_rows = leaf.reshape(len(turn), -1, *leaf.shape[1:])
        return jax.lax.dynamic_update_index_in_dim(of_rows, row, turn[0], 1).reshape(leaf.shape)

    return jax.tree.map(put, lanes, new)
