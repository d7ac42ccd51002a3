"""A segment that is split over devices: each has the same number of its blocks, in order.

These functions run inside `jax.shard_map`, over an axis of the mesh whose devices have the parts.
Without an axis, the segment is whole.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

# Arguments: parameters, the state that enters the part, its inputs, and where documents start.
# Results: the state that leaves the part, and outputs.
Recurrence = Callable[[PyTree, PyTree, PyTree, Array | None], tuple[PyTree, PyTree]]


def is_first_part(axis: str | None) -> bool | Bool[Array, ""]:
    """Whether this device has the first part of the segment."""
    return axis is None or jax.lax.axis_index(axis) == 0


def from_part_before(last: PyTree, carried: PyTree, axis: str | None) -> PyTree:
    """What comes before this part: what ends the part before, or in the first part, `carried`.

    Args:
      last: what ends this part.
      carried: what was carried from the segment before.
      axis: axis of the mesh.
    """
    if axis is None:
        return carried
    return jax.tree.map(
        functools.partial(jnp.where, is_first_part(axis)), carried, _pass_on(last, axis, +1)
    )


def of_last_part(last: PyTree, axis: str | None) -> PyTree:
    """What ends the last part, and so the segment, on all devices."""
    if axis is None:
        return last
    is_last = jax.lax.axis_index(axis) == jax.lax.axis_size(axis) - 1
    return jax.tree.map(lambda leaf: jax.lax.psum(jnp.where(is_last, leaf, 0), axis), last)


def in_all_parts(holds: Bool[Array, "*shape"], axis: str | None) -> Bool[Array, "*shape"]:
    """Whether something holds in all parts of the segment."""
    return holds if axis is None else jax.lax.pmin(holds.astype(jnp.int32), axis) > 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def part_after_part(
    run: Recurrence,
    axis: str,
    params: PyTree,
    carried: PyTree,
    inputs: PyTree,
    starts: Bool[Array, "B N"] | None,
) -> tuple[PyTree, PyTree]:
    """Runs a recurrence over the parts, one after the other: while one device runs, others wait.

    Only the state that enters a part is kept for the backward pass, which runs `run` again.

    Args:
      run: the recurrence over one part. It uses nothing that has a gradient but its arguments.
      axis: axis of the mesh.
      params: the parameters of `run`.
      carried: the state that enters the first part.
      inputs: what `run` reads; of this part.
      starts: whether a block of this part starts a document.

    Returns:
      The state that leaves this part, and the outputs of `run` for this part.
    """
    leaving, outputs, _ = _forward(run, axis, params, carried, inputs, starts)
    return leaving, outputs


def _forward(run, axis, params, carried, inputs, starts):
    """`part_after_part`, and the state that enters this part."""
    index = jax.lax.axis_index(axis)
    shapes = jax.eval_shape(run, params, carried, inputs, starts)
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

    def stage(number, carry):
        entering, results = carry
        results = jax.lax.cond(
            index == number, lambda: run(params, entering, inputs, starts), lambda: results
        )
        passed = _pass_on(results[0], axis, +1)
        entering = jax.tree.map(
            lambda old, new: jnp.where(index == number + 1, new, old), entering, passed
        )
        return entering, results

    entering, results = jax.lax.fori_loop(0, jax.lax.axis_size(axis), stage, (carried, zeros))
    return *results, entering


def _forward_and_save(run, axis, params, carried, inputs, starts):
    leaving, outputs, entering = _forward(run, axis, params, carried, inputs, starts)
    return (leaving, outputs), (params, entering, inputs, starts)


def _backward(run, axis, saved, cotangents):
    params, entering, inputs, starts = saved
    d_leaving, d_outputs = cotangents
    index, size = jax.lax.axis_index(axis), jax.lax.axis_size(axis)

    def gradients(d_leaving):
        _, pull = jax.vjp(lambda *arguments: run(*arguments, starts), params, entering, inputs)
        return pull((d_leaving, d_outputs))

    def stage(number, carry):
        d_leaving, results = carry
        mine = index == size - 1 - number
        results = jax.lax.cond(mine, gradients, lambda _: results, d_leaving)
        passed = _pass_on(results[1], axis, -1)
        before = index == size - 2 - number
        d_leaving = jax.tree.map(
            lambda own, other: own + jnp.where(before, other, 0), d_leaving, passed
        )
        return d_leaving, results

    zeros = jax.tree.map(jnp.zeros_like, (params, entering, inputs))
    _, (d_params, d_entering, d_inputs) = jax.lax.fori_loop(0, size, stage, (d_leaving, zeros))
    d_carried = jax.tree.map(lambda leaf: jnp.where(index == 0, leaf, 0), d_entering)
    return d_params, d_carried, d_inputs, None


part_after_part.defvjp(_forward_and_save, _backward)


def _pass_on(tree: PyTree, axis: str, step: int) -> PyTree:
    """The tree of the device `step` places before; zeros where there is none."""
    size = jax.lax.axis_size(axis)
    pairs = [(i, i + step) for i in range(size) if 0 <= i + step < size]
    return jax.tree.map(lambda leaf: jax.lax.ppermute(leaf, axis, pairs), tree)
