"""The forward kernel: softmax(q · kᵀ + bias) · v over the strip, by its tiles of keys."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from block_recurrent.kernels.band import Band, Operands, dot, tile_bias, tile_logits
from block_recurrent.kernels.launch import keep_of, launch, operand_specs, program_ids, row_spec


def forward(
    operands: Operands, band: Band
) -> tuple[Float[Array, "N B H W K"], Float[Array, "N B H W 1"]]:
    """The attention, and the binary logarithm of each row's sum, where the backward pass begins."""
    blocks, batch, heads, window, size = operands.queries.shape
    shape = jax.ShapeDtypeStruct
    return launch(
        functools.partial(_forward_kernel, band=band),
        band,
        grid=(heads, blocks, batch, band.query_tiles),
        in_specs=(operand_specs(operands, band),),
        out_specs=(row_spec(band, size), row_spec(band, 1)),
        out_shape=(
            shape(operands.queries.shape, operands.queries.dtype),
            shape((blocks, batch, heads, window, 1), jnp.float32),
        ),
    )(operands)


def _forward_kernel(operands: Operands, out, log_sum, *, band: Band):
    """One tile of queries of one block, row and head."""
    queries = operands.queries[...]
    _, block, row, query_tile = program_ids(4, band)
    kept = keep_of(operands, block, row)

    def step(strip_tile, carry):
        largest, total, weighted = carry
        own, tile = band.place(query_tile, strip_tile)
        keys = operands.keys[own, 0, 0, band.columns(tile), :]
        values = operands.values[own, 0, 0, band.columns(tile), :]
        keep = None if kept is None else jnp.where(own == 1, 1.0, kept)
        bias = tile_bias(operands.strip, strip_tile, band)
        logits = tile_logits(queries, keys, keep, bias, strip_tile, band)
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
    largest, total, weighted = jax.lax.fori_loop(0, band.strip_tiles, step, start)
    out[...] = (weighted / total).astype(out.dtype)
    log_sum[...] = largest + jnp.log2(total)
