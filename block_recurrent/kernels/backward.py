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

from block_recurrent.kernels.band import Band, Operands, dot, tile_bias, tile_logits, tile_slice
from block_recurrent.kernels.launch import (
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
    operands: Operands, rows: Rows, band: Band, reach: int
) -> tuple[Float[Array, "B T HK"], Float[Array, "H C Q V"] | None]:
    """Gradient of the queries and of the strip, over the grid of the forward kernel.

    Of the strip, a GPU leaves out the tiles of which all keys are `reach` away or further.

    A TPU runs its grid in order, so there the strip's gradient grows in its memory as the programs
    of a head go by. A GPU does not, and has a kernel for it (`_d_strip`).
    """
    batch, heads, length, _ = rows.log_sum.shape
    size = operands.queries.shape[2] // heads
    by_grid = operands.strip is not None and band.platform == "tpu"
    shape = jax.ShapeDtypeStruct
    gradient, strip = launch(
        functools.partial(_d_queries_kernel, band=band),
        band,
        order=("parallel", "arbitrary", "arbitrary", "arbitrary"),
        grid=(heads, length // band.window, batch, band.query_tiles),
        in_specs=(
            operand_specs(operands, band, size),
            Rows(row_spec(band, size), sum_spec(band), sum_spec(band)),
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
        seen = (tile_slice(query_tile * band.ratio + strip_tile, band.tiles.keys), slice(None))
        keys, values = operands.keys[seen], operands.values[seen]
        keep = None if kept is None else jnp.where(band.is_own(query_tile, strip_tile), 1.0, kept)
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
    heads = rows.log_sum.shape[1]
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
    batch, heads, length, _ = rows.log_sum.shape
    columns = tile_slice(head, operands.queries.shape[2] // heads)
    tiles = length // band.tiles.queries  # of queries in a row of the batch
    bias = tile_bias(operands.strip, strip_tile, band)

    def step(item, gradient):
        row, tile = item // tiles, item % tiles
        block, query_tile = tile // band.query_tiles, tile % band.query_tiles
        mine = tile_slice(tile, band.tiles.queries)
        seen = (row, tile_slice(tile * band.ratio + strip_tile, band.tiles.keys), columns)
        keep = None
        if operands.keep is not None:
            kept = operands.keep[block, row]
            keep = jnp.where(band.is_own(query_tile, strip_tile), 1.0, kept)
        mask = None if operands.dropout is None else operands.dropout[head, query_tile, strip_tile]
        queries, d_out = (ref[row, mine, columns] for ref in (operands.queries, rows.d_out))
        log_sum, delta = (ref[row, head, mine, :] for ref in (rows.log_sum, rows.delta))
        values = operands.values[seen]
        logits = tile_logits(queries, operands.keys[seen], keep, bias, None, band)
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        return gradient + d_logits

    total = batch * tiles
    first, last = part * total // PARTS, (part + 1) * total // PARTS
    out[...] = jax.lax.fori_loop(first, last, step, jnp.zeros(out.shape, jnp.float32))


def d_keys_values(
    operands: Operands, rows: Rows, band: Band, blocks: range
) -> tuple[Float[Array, "B M HK"], Float[Array, "B M HK"]]:
    """Gradients of keys and values: a program a tile of keys, which two blocks see.

    The block after it sees the tile as part of its past, the tile's own block as part of itself.

    Args:
      operands: what the forward kernel reads.
      rows: of all queries.
      band: the band.
      blocks: of the keys, those to differentiate by: 0 is the carried block.
    """
    batch, heads, length, _ = rows.log_sum.shape
    window, width = band.window, operands.keys.shape[2]
    size, last = width // heads, length // window - 1

    def seen_by(block_of):
        whole = pl.BlockSpec((None, window, size), lambda h, n, b, c: (b, block_of(n), h))
        sums = pl.BlockSpec((None, None, window, 1), lambda h, n, b, c: (b, h, block_of(n), 0))
        return whole, Rows(whole, sums, sums)

    def tile_after(skipped):
        return pl.BlockSpec(
            (None, band.tiles.keys, size),
            lambda h, n, b, c: (b, (skipped + n) * band.key_tiles + c, h),
        )

    after = seen_by(lambda n: jnp.minimum(blocks.start + n, last))
    own = seen_by(lambda n: jnp.maximum(blocks.start + n - 1, 0))
    tile, gradient = tile_after(blocks.start), tile_after(0)
    strip, dropout = of_head(operands.strip), of_head(operands.dropout)
    keep = None if operands.keep is None else keep_spec(band)
    shape = (batch, len(blocks) * window, width)
    readers = (operands.queries, rows)
    return launch(
        functools.partial(_d_keys_values_kernel, band=band, first=blocks.start, last=last),
        band,
        grid=(heads, len(blocks), batch, band.key_tiles),
        in_specs=((after, own), Operands(None, tile, tile, keep, strip, dropout)),
        out_specs=(gradient, gradient),
        out_shape=(jax.ShapeDtypeStruct(shape, operands.keys.dtype),) * 2,
    )((readers, readers), operands._replace(queries=None))


def _d_keys_values_kernel(
    readers, operands: Operands, d_keys, d_values, *, band: Band, first: int, last: int
):
    """One tile of keys of one block, row and head."""
    keys, values = operands.keys[...], operands.values[...]
    _, block, row, key_tile = program_ids(4, band)
    block += first

    def sums(own, first, last, start):
        queries_ref, rows = readers[own]

        def step(query_tile, carry):
            d_keys, d_values = carry
            mine = (tile_slice(query_tile, band.tiles.queries), slice(None))
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

    seen = block <= last
    if operands.keep is not None:  # a document's start sees zeros, not this tile
        seen &= operands.keep[jnp.minimum(block, last), row] != 0
    mine = key_tile // band.ratio
    start = (jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32))
    carry = sums(0, 0, jnp.where(seen, mine + 1, 0), start)
    carry = sums(1, mine, jnp.where(block > 0, band.query_tiles, mine), carry)
    d_keys[...], d_values[...] = (x.astype(d_keys.dtype) for x in carry)
