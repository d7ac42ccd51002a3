"""The forward kernel: softmax(q · kᵀ + bias) · v, with an online softmax over tiles of keys."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.ops.kernels.band import Tiling
from block_recurrent.ops.kernels.launch import (
    launch,
    operand_specs,
    per_query_spec,
    program_ids,
    query_tile_spec,
)
from block_recurrent.ops.kernels.tile import Operands, dot, load_keep, load_key_tile
from block_recurrent.ops.normalize import inverse_length


def forward(
    operands: Operands, scale: Float[Array, "B H 1 1"], tiling: Tiling
) -> tuple[Float[Array, "B T HK"], Float[Array, "B H T 1"], Float[Array, "B H T 1"]]:
    """The attention, and what the backward pass needs for each query.

    Args:
      operands: what the kernel reads.
      scale: length that the queries of each head are given.
      tiling: tiles and platform.

    Returns:
      The attention, log2 Σ exp(logit), and scale / √(Σ query² + ε).
    """
    batch, length, width = operands.queries.shape
    heads = scale.shape[1]
    size, shape = width // heads, jax.ShapeDtypeStruct
    number = shape((batch, heads, length, 1), jnp.float32)
    return launch(
        functools.partial(_forward_kernel, tiling=tiling),
        tiling,
        grid=(heads, length // tiling.block, batch, tiling.num_query_tiles),
        in_specs=(
            operand_specs(operands, tiling, size),
            pl.BlockSpec((None, None, 1, 1), lambda h, n, b, r: (b, h, 0, 0)),
        ),
        out_specs=(query_tile_spec(tiling, size), per_query_spec(tiling), per_query_spec(tiling)),
        out_shape=(shape(operands.queries.shape, operands.queries.dtype), number, number),
    )(operands, scale)


def _forward_kernel(operands: Operands, scale, out, log_sum, factors, *, tiling: Tiling):
    """Computes one tile of queries of one head, block and batch row."""
    queries = operands.queries[...]
    factor = scale[...] * inverse_length(queries)
    _, block, row, query_tile = program_ids(4, tiling)
    keep_past = load_keep(operands, block, row)

    def step(strip_tile, carry):
        largest, total, weighted = carry
        _, values, keep, logits = load_key_tile(
            operands, queries, factor, query_tile, strip_tile, keep_past, tiling
        )
        new_largest = jnp.maximum(largest, jnp.max(logits, axis=1, keepdims=True))
        weights = jnp.exp2(logits - new_largest)
        shrink = jnp.exp2(largest - new_largest)
        total = total * shrink + jnp.sum(weights, axis=1, keepdims=True)
        if operands.dropout is not None:
            weights = weights * operands.dropout[strip_tile].astype(jnp.float32)
        if keep is not None:
            weights = weights * keep
        weighted = weighted * shrink + dot(weights.astype(values.dtype), values)
        return new_largest, total, weighted

    rows, size = queries.shape
    start = (
        jnp.full((rows, 1), -jnp.inf, jnp.float32),
        jnp.zeros((rows, 1), jnp.float32),
        jnp.zeros((rows, size), jnp.float32),
    )
    largest, total, weighted = jax.lax.fori_loop(0, tiling.num_strip_tiles, step, start)
    out[...] = (weighted / total).astype(out.dtype)
    log_sum[...] = largest + jnp.log2(total)
    factors[...] = factor
