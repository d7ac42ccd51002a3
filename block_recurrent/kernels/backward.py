"""The backward kernels: each recomputes the weights of its tiles from the rows' sums.

With P the weights, m the dropout and δ = Σ out · d_out of a row::

    dP = m ∘ (d_out · vᵀ)        dS = P ∘ (dP − δ)
    d_values = (m ∘ P)ᵀ · d_out  d_keys = dSᵀ · q  d_queries = dS · k  d_strip = Σ dS

Every sum stays inside one program, or inside programs that run one after the other, so that the
result is the same at every run; there are no atomic additions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.kernels.band import Band, Operands, dot, tile_bias, tile_logits
from block_recurrent.kernels.launch import (
    keep_of,
    keep_spec,
    launch,
    of_head,
    operand_specs,
    program_ids,
    row_spec,
)

PARTS = 8  # of a GPU's sum over blocks and rows of the batch, so that all its processors have work


class Rows(NamedTuple):
    """What the backward kernels read for each query, as references."""

    d_out: Float[Array, "N B H W K"]
    log_sum: Float[Array, "N B H W 1"]
    delta: Float[Array, "N B H W 1"]


def d_queries(
    operands: Operands, rows: Rows, band: Band, reach: int
) -> tuple[Float[Array, "N B H W K"], Float[Array, "H C Q V"] | None]:
    """Gradient of the queries and of the strip, over the grid of the forward kernel.

    Of the strip, a GPU leaves out the tiles of which all keys are `reach` away or further.

    A TPU runs its grid in order, so there the strip's gradient grows in its memory as the programs
    of a head go by. A GPU does not, and has a kernel for it (`_d_strip`).
    """
    blocks, batch, heads, _, size = operands.queries.shape
    by_grid = operands.strip is not None and band.platform == "tpu"
    shape = jax.ShapeDtypeStruct
    gradient, strip = launch(
        functools.partial(_d_queries_kernel, band=band),
        band,
        order=("parallel", "arbitrary", "arbitrary", "arbitrary"),
        grid=(heads, blocks, batch, band.query_tiles),
        in_specs=(
            operand_specs(operands, band),
            Rows(row_spec(band, size), row_spec(band, 1), row_spec(band, 1)),
        ),
        out_specs=(row_spec(band, size), of_head(operands.strip) if by_grid else None),
        out_shape=(
            shape(operands.queries.shape, operands.queries.dtype),
            shape(operands.strip.shape, jnp.float32) if by_grid else None,
        ),
    )(operands, rows)
    if operands.strip is not None and not by_grid:
        strip = _d_strip(operands, rows, band, reach)
    return gradient, strip


def _d_queries_kernel(operands: Operands, rows: Rows, out, strip, *, band: Band):
    """One tile of queries of one block, row and head."""
    queries, d_out = operands.queries[...], rows.d_out[...]
    log_sum, delta = rows.log_sum[...], rows.delta[...]
    _, block, row, query_tile = program_ids(4, band)
    kept = keep_of(operands, block, row)

    if strip is not None:

        @pl.when((block == 0) & (row == 0) & (query_tile == 0))
        def _():
            strip[...] = jnp.zeros_like(strip)

    def step(strip_tile, gradient):
        own, tile = band.place(query_tile, strip_tile)
        keys = operands.keys[own, 0, 0, band.columns(tile), :]
        values = operands.values[own, 0, 0, band.columns(tile), :]
        keep = None if kept is None else jnp.where(own == 1, 1.0, kept)
        bias = tile_bias(operands.strip, strip_tile, band)
        mask = None if operands.dropout is None else operands.dropout[strip_tile]
        logits = tile_logits(queries, keys, keep, bias, strip_tile, band)
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        if strip is not None:
            strip[strip_tile] += d_logits
        if keep is not None:
            d_logits = d_logits * keep
        return gradient + dot(d_logits.astype(keys.dtype), keys)

    start = jnp.zeros(queries.shape, jnp.float32)
    out[...] = jax.lax.fori_loop(0, band.strip_tiles, step, start).astype(out.dtype)


def _gradients(logits, d_out, values, mask, keep, log_sum, delta):
    """Of one tile the weights after dropout, m ∘ P, and the gradient dS of the logits."""
    weights = jnp.exp2(logits - log_sum)
    d_weights = dot(d_out, values, (1, 1))
    if keep is not None:
        d_weights = d_weights * keep
    if mask is None:
        return weights, weights * (d_weights - delta)
    mask = mask.astype(jnp.float32)
    return weights * mask, weights * (d_weights * mask - delta)


def _d_strip(operands: Operands, rows: Rows, band: Band, reach: int) -> Float[Array, "H C Q V"]:
    """Gradient of the strip on a GPU: a program a tile of the strip and part of the batch.

    Two of the products of a tile are computed a second time for it: cheaper than to write the
    gradient of the logits to memory, or to add it up there.
    """
    heads = operands.queries.shape[2]
    tile, far = (band.tiles.queries, band.tiles.keys), band.far_tiles(reach)
    everything, of_rows = jax.tree.map(lambda _: pl.BlockSpec(), (operands, rows))
    parts = launch(
        functools.partial(_d_strip_kernel, band=band, far=far),
        band,
        grid=(heads, PARTS, band.strip_tiles - far),
        in_specs=(everything._replace(strip=of_head(operands.strip)), of_rows),
        out_specs=pl.BlockSpec((None, None, None, *tile), lambda h, p, c: (p, h, c, 0, 0)),
        out_shape=jax.ShapeDtypeStruct((PARTS, heads, band.strip_tiles - far, *tile), jnp.float32),
    )(operands, rows)
    return parts.sum(axis=0)


def _d_strip_kernel(operands: Operands, rows: Rows, out, *, band: Band, far: int):
    """One tile of the strip of one head, summed over a part of all tiles of queries."""
    head, part, strip_tile = program_ids(3, band)
    strip_tile += far
    blocks, batch, _, _, _ = operands.queries.shape
    total = blocks * batch * band.query_tiles
    bias = tile_bias(operands.strip, strip_tile, band)

    def step(item, gradient):
        block_row, query_tile = item // band.query_tiles, item % band.query_tiles
        block, row = block_row // batch, block_row % batch
        own, tile = band.place(query_tile, strip_tile)
        mine = (block, row, head, band.rows(query_tile), slice(None))
        seen = (block + own, row, head, band.columns(tile), slice(None))
        keep = None
        if operands.keep is not None:
            keep = jnp.where(own == 1, 1.0, operands.keep[block, row])
        mask = None if operands.dropout is None else operands.dropout[head, query_tile, strip_tile]
        logits = tile_logits(operands.queries[mine], operands.keys[seen], keep, bias, None, band)
        d_out, log_sum, delta = (ref[mine] for ref in rows)
        values = operands.values[seen]
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        return gradient + d_logits

    first, last = part * total // PARTS, (part + 1) * total // PARTS
    out[...] = jax.lax.fori_loop(first, last, step, jnp.zeros(out.shape, jnp.float32))


def d_keys_values(
    operands: Operands, rows: Rows, band: Band
) -> tuple[Float[Array, "M B H W K"], Float[Array, "M B H W K"]]:
    """Gradients of keys and values: a program a tile of keys, which two blocks see.

    The block after it sees the tile as part of its past, the tile's own block as part of itself.
    """
    blocks, batch, heads, window, size = operands.queries.shape

    def seen_by(block_of):
        def whole(*shape):
            return pl.BlockSpec(
                (None, None, None, *shape), lambda h, m, b, c: (block_of(m), b, h, 0, 0)
            )

        return whole(window, size), Rows(whole(window, size), whole(window, 1), whole(window, 1))

    after = seen_by(lambda m: jnp.minimum(m, blocks - 1))
    own = seen_by(lambda m: jnp.maximum(m - 1, 0))
    tile = pl.BlockSpec(
        (None, None, None, band.tiles.keys, size), lambda h, m, b, c: (m, b, h, c, 0)
    )
    strip, dropout = of_head(operands.strip), of_head(operands.dropout)
    keep = None if operands.keep is None else keep_spec(band)
    keys, values = operands.keys, operands.values
    readers = (operands.queries, rows)
    return launch(
        functools.partial(_d_keys_values_kernel, band=band, blocks=blocks),
        band,
        grid=(heads, blocks + 1, batch, band.key_tiles),
        in_specs=((after, own), Operands(None, tile, tile, keep, strip, dropout)),
        out_specs=(tile, tile),
        out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (keys, values)),
    )((readers, readers), operands._replace(queries=None))


def _d_keys_values_kernel(readers, operands: Operands, d_keys, d_values, *, band: Band, blocks):
    """One tile of keys of one block, row and head."""
    keys, values = operands.keys[...], operands.values[...]
    _, block, row, key_tile = program_ids(4, band)

    def sums(own, first, last, start):
        queries_ref, rows = readers[own]

        def step(query_tile, carry):
            d_keys, d_values = carry
            mine = (band.rows(query_tile), slice(None))
            queries, d_out = queries_ref[mine], rows.d_out[mine]
            strip_tile = own * band.key_tiles + key_tile - query_tile * band.ratio
            bias = tile_bias(operands.strip, strip_tile, band)
            mask = None if operands.dropout is None else operands.dropout[query_tile, strip_tile]
            logits = tile_logits(queries, keys, None, bias, strip_tile, band)
            weights, d_logits = _gradients(
                logits, d_out, values, mask, None, rows.log_sum[mine], rows.delta[mine]
            )
            d_values = d_values + dot(weights.astype(d_out.dtype), d_out, (0, 0))
            return d_keys + dot(d_logits.astype(queries.dtype), queries, (0, 0)), d_values

        return jax.lax.fori_loop(first, last, step, start)

    seen = block < blocks
    if operands.keep is not None:  # a document's start sees zeros, not this tile
        seen &= operands.keep[jnp.minimum(block, blocks - 1), row] != 0
    mine = key_tile // band.ratio
    start = (jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32))
    carry = sums(0, 0, jnp.where(seen, mine + 1, 0), start)
    carry = sums(1, mine, jnp.where(block > 0, band.query_tiles, mine), carry)
    d_keys[...], d_values[...] = (x.astype(d_keys.dtype) for x in carry)
