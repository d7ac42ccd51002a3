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

from block_recurrent.ops.kernels.band import (
    Band,
    Operands,
    Tiling,
    dot,
    tile_bias,
    tile_logits,
    tile_slice,
)
from block_recurrent.ops.kernels.launch import (
    keep_of,
    keep_spec,
    launch,
    of_head,
    operand_specs,
    program_ids,
    row_spec,
    sum_spec,
)

PARTS = 8  # of a GPU's sum over blocks and rows of the batch, so that all its processors have work


class Rows(NamedTuple):
    """What the backward kernels read for each query, as references."""

    d_out: Float[Array, "B T HK"]
    log_sum: Float[Array, "B H T 1"]
    delta: Float[Array, "B H T 1"]


def d_queries(
    operands: Operands, rows: Rows, tiling: Tiling, reach: int
) -> tuple[Float[Array, "B T HK"], Float[Array, "H C Q V"] | None]:
    """Gradient of the queries and of the strip, over the grid of the forward kernel.

    Of the strip, a GPU leaves out the tiles of which all keys are `reach` away or further.

    A TPU runs its grid in order, so there the strip's gradient grows in its memory as the programs
    of a head go by. A GPU does not, and has a kernel for it (`_d_strip`).
    """
    batch, heads, length, _ = rows.log_sum.shape
    size = operands.queries.shape[2] // heads
    by_grid = operands.strip is not None and tiling.platform == "tpu"
    shape = jax.ShapeDtypeStruct
    gradient, strip = launch(
        functools.partial(_d_queries_kernel, tiling=tiling),
        tiling,
        order=("parallel", "arbitrary", "arbitrary", "arbitrary"),
        grid=(heads, length // tiling.block, batch, tiling.query_tiles),
        in_specs=(
            operand_specs(operands, tiling, size),
            Rows(row_spec(tiling, size), sum_spec(tiling), sum_spec(tiling)),
        ),
        out_specs=(row_spec(tiling, size), of_head(operands.strip) if by_grid else None),
        out_shape=(
            shape(operands.queries.shape, operands.queries.dtype),
            shape(operands.strip.shape, jnp.float32) if by_grid else None,
        ),
    )(operands, rows)
    if operands.strip is not None and not by_grid:
        strip = _d_strip(operands, rows, tiling, reach)
    return gradient, strip


def _d_queries_kernel(operands: Operands, rows: Rows, out, strip, *, tiling: Tiling):
    """One tile of queries of one block, row and head."""
    queries, d_out = operands.queries[...], rows.d_out[...]
    log_sum, delta = rows.log_sum[...], rows.delta[...]
    _, block, row, query_tile = program_ids(4, tiling)
    kept = keep_of(operands, block, row)

    if strip is not None:

        @pl.when((block == 0) & (row == 0) & (query_tile == 0))
        def _():
            strip[...] = jnp.zeros_like(strip)

    def step(strip_tile, gradient):
        tile = tiling.first_tile(query_tile) + strip_tile
        seen = (tile_slice(tile, tiling.tiles.keys), slice(None))
        keys, values = operands.keys[seen], operands.values[seen]
        keep = None if kept is None else jnp.where(tiling.is_own(query_tile, strip_tile), 1.0, kept)
        bias = tile_bias(operands.strip, strip_tile, tiling)
        mask = None if operands.dropout is None else operands.dropout[strip_tile]
        logits = tile_logits(queries, keys, keep, bias, strip_tile, tiling)
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        if strip is not None:
            strip[strip_tile] += d_logits
        if keep is not None:
            d_logits = d_logits * keep
        return gradient + dot(d_logits.astype(keys.dtype), keys)

    start = jnp.zeros(queries.shape, jnp.float32)
    out[...] = jax.lax.fori_loop(0, tiling.strip_tiles, step, start).astype(out.dtype)


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


def _d_strip(operands: Operands, rows: Rows, tiling: Band, reach: int) -> Float[Array, "H C Q V"]:
    """Gradient of the strip on a GPU: a program a tile of the strip and part of the batch.

    Two of the products of a tile are computed a second time for it: cheaper than to write the
    gradient of the logits to memory, or to add it up there.
    """
    heads = rows.log_sum.shape[1]
    tile, far = (tiling.tiles.queries, tiling.tiles.keys), tiling.far_tiles(reach)
    everything, of_rows = jax.tree.map(lambda _: pl.BlockSpec(), (operands, rows))
    parts = launch(
        functools.partial(_d_strip_kernel, tiling=tiling, far=far),
        tiling,
        grid=(heads, PARTS, tiling.strip_tiles - far),
        in_specs=(everything._replace(strip=of_head(operands.strip)), of_rows),
        out_specs=pl.BlockSpec((None, None, None, *tile), lambda h, p, c: (p, h, c, 0, 0)),
        out_shape=jax.ShapeDtypeStruct(
            (PARTS, heads, tiling.strip_tiles - far, *tile), jnp.float32
        ),
    )(operands, rows)
    return parts.sum(axis=0)


def _d_strip_kernel(operands: Operands, rows: Rows, out, *, tiling: Band, far: int):
    """One tile of the strip of one head, summed over a part of all tiles of queries."""
    head, part, strip_tile = program_ids(3, tiling)
    strip_tile += far
    batch, heads, length, _ = rows.log_sum.shape
    columns = tile_slice(head, operands.queries.shape[2] // heads)
    tiles = length // tiling.tiles.queries  # of queries in a row of the batch
    bias = tile_bias(operands.strip, strip_tile, tiling)

    def step(item, gradient):
        row, tile = item // tiles, item % tiles
        block, query_tile = tile // tiling.query_tiles, tile % tiling.query_tiles
        mine = tile_slice(tile, tiling.tiles.queries)
        seen = (row, tile_slice(tile * tiling.ratio + strip_tile, tiling.tiles.keys), columns)
        keep = None
        if operands.keep is not None:
            kept = operands.keep[block, row]
            keep = jnp.where(tiling.is_own(query_tile, strip_tile), 1.0, kept)
        mask = None if operands.dropout is None else operands.dropout[head, query_tile, strip_tile]
        queries, d_out = (ref[row, mine, columns] for ref in (operands.queries, rows.d_out))
        log_sum, delta = (ref[row, head, mine, :] for ref in (rows.log_sum, rows.delta))
        values = operands.values[seen]
        logits = tile_logits(queries, operands.keys[seen], keep, bias, None, tiling)
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        return gradient + d_logits

    total = batch * tiles
    first, last = part * total // PARTS, (part + 1) * total // PARTS
    out[...] = jax.lax.fori_loop(first, last, step, jnp.zeros(out.shape, jnp.float32))


def d_keys_values(
    operands: Operands, rows: Rows, tiling: Tiling, blocks: range
) -> tuple[Float[Array, "B M HK"], Float[Array, "B M HK"]]:
    """Gradients of keys and values: a program a tile of keys, which one or two blocks see.

    In a band the block after sees the tile as part of its past, the tile's own block as part of
    itself.

    Args:
      operands: what the forward kernel reads.
      rows: of all queries.
      tiling: who sees what.
      blocks: of the keys, those to differentiate by: in a band, 0 is the carried block.
    """
    batch, heads, length, _ = rows.log_sum.shape
    first_axis, _, width = operands.keys.shape
    size, last = width // heads, length // tiling.block - 1

    def seen_by(offset):
        def block(n):
            return jnp.clip(blocks.start + n + offset, 0, last)

        whole = pl.BlockSpec((None, tiling.block, size), lambda h, n, b, c: (b, block(n), h))
        sums = pl.BlockSpec((None, None, tiling.block, 1), lambda h, n, b, c: (b, h, block(n), 0))
        return whole, Rows(whole, sums, sums)

    tile = tiling.key_spec(size, batch, blocks.start)
    gradient = tiling.key_spec(size, batch, 0)
    strip, dropout = of_head(operands.strip), of_head(operands.dropout)
    keep = None if operands.keep is None else keep_spec(tiling)
    keys = batch * len(blocks) * tiling.key_tiles * tiling.tiles.keys
    shape = (first_axis, keys // first_axis, width)
    return launch(
        functools.partial(_d_keys_values_kernel, tiling=tiling, first=blocks.start, last=last),
        tiling,
        grid=(heads, len(blocks), batch, tiling.key_tiles),
        in_specs=(
            tuple(map(seen_by, tiling.readers)),
            Operands(None, tile, tile, keep, strip, dropout),
        ),
        out_specs=(gradient, gradient),
        out_shape=(jax.ShapeDtypeStruct(shape, operands.keys.dtype),) * 2,
    )(((operands.queries, rows),) * len(tiling.readers), operands._replace(queries=None))


def _d_keys_values_kernel(
    readers, operands: Operands, d_keys, d_values, *, tiling: Tiling, first: int, last: int
):
    """One tile of keys of one block, row and head."""
    keys, values = operands.keys[...], operands.values[...]
    _, block, row, key_tile = program_ids(4, tiling)
    block += first
    carry = (jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32))
    reading = zip(tiling.readers, readers, tiling.spans(key_tile), strict=True)
    for offset, (queries_ref, rows), (begin, end, place) in reading:

        def step(query_tile, carry, queries_ref=queries_ref, rows=rows, place=place):
            d_keys, d_values = carry
            mine = (tile_slice(query_tile, tiling.tiles.queries), slice(None))
            queries, d_out = queries_ref[mine], rows.d_out[mine]
            strip_tile = place(query_tile)
            bias = tile_bias(operands.strip, strip_tile, tiling)
            mask = None if operands.dropout is None else operands.dropout[query_tile, strip_tile]
            logits = tile_logits(queries, keys, None, bias, strip_tile, tiling)
            weights, d_logits = _gradients(
                logits, d_out, values, mask, None, rows.log_sum[mine], rows.delta[mine]
            )
            d_values = d_values + dot(weights.astype(d_out.dtype), d_out, (0, 0))
            return d_keys + dot(d_logits.astype(queries.dtype), queries, (0, 0)), d_values

        seen = (block + offset >= 0) & (block + offset <= last)
        if operands.keep is not None and offset == 0:  # a document's start sees zeros instead
            seen &= operands.keep[jnp.minimum(block, last), row] != 0
        # Not `where`, of which Pallas' Triton takes two constants for booleans.
        carry = jax.lax.fori_loop(begin, begin + seen * (end - begin), step, carry)
    d_keys[...], d_values[...] = (x.astype(d_keys.dtype) for x in carry)
