"""Gradients of a batch in parts, one after the other, so that a step needs the memory of one part.

    batch of 6 rows on 2 devices, in 3 parts       device 0: rows 0 1 2    device 1: rows 3 4 5
                                              in part number:     0 1 2                   0 1 2

Every part has rows of every device, so no row moves to another device.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import dynamic_index_in_dim, dynamic_update_index_in_dim
from jaxtyping import PyTree

# Gradients of the parameters, and (the nats of the rows, the memory after them). A function of the
# parameters, the memory of the rows, the batch, and what all rows share.
Gradients = Callable[[PyTree, PyTree, PyTree, PyTree], tuple[PyTree, tuple[PyTree, PyTree]]]


def in_microbatches(gradients: Gradients, number: int) -> Gradients:
    """Returns the same function, computed for `number` equal parts of the rows in turn.

    The result differs only by the order in which gradients are summed. The compiled program has a
    loop, whose body is a single part.

    Args:
      gradients: sums over rows, in float32. A row may not depend on another one.
      number: parts M; divides the number of rows.
    """
    if number == 1:
        return gradients

    def in_turn(params, memory, batch, shared):
        def part(carry, turn):
            sums, memory = carry
            index, batch = turn
            own = jax.tree.map(lambda leaf: dynamic_index_in_dim(leaf, index, 0, False), memory)
            grads, (nats, own) = gradients(params, own, batch, shared)

            def put(leaf, new):  # in place; a new array would take the memory of all rows again
                return dynamic_update_index_in_dim(leaf, new, index, 0)

            return (jax.tree.map(jnp.add, sums, grads), jax.tree.map(put, memory, own)), nats

        zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, jnp.float32), params)
        carry = zeros, split_rows(memory, number)
        turns = jnp.arange(number), split_rows(batch, number)
        (sums, memory), nats = jax.lax.scan(part, carry, turns)
        return sums, join_parts((nats, memory))

    return in_turn


def split_rows(tree: PyTree, number: int) -> PyTree:
    """Splits the rows of arrays into parts of adjacent rows: ``[B, …]`` to ``[M, B / M, …]``."""
    return jax.tree.map(lambda leaf: leaf.reshape(number, -1, *leaf.shape[1:]), tree)


def join_parts(tree: PyTree) -> PyTree:
    """Joins the rows of all parts again: ``[M, B / M, …]`` to ``[B, …]``."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)
