"""The backward kernels. Each recomputes the weights of its tiles from the log-sum of each query.

With P the weights, m the dropout multipliers and δ = Σ out · d_out for each query::

    dP = m ∘ (d_out · vᵀ)        dS = P ∘ (dP − δ)
    d_values = (m ∘ P)ᵀ · d_out  d_keys = dSᵀ · q  d_queries = dS · k  d_strip = Σ dS

Here q has its final length and k unit length. The gradients before normalization follow at the end
of each program, from the sum that it holds in registers (`split_gradient`).

Each sum is computed by one program, or by programs that run one after the other. There are no
atomic additions, so results are reproducible.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.ops.kernels.band import Band, Tiling
from block_recurrent.ops.kernels.launch import (
    head_spec,
    keep_flags_spec,
    launch,
    operand_specs,
    per_query_spec,
    program_ids,
    query_tile_spec,
)
from block_recurrent.ops.kernels.tile import (
    Operands,
    dot,
    load_keep,
    load_key_tile,
    split_gradient,
    tile_bias,
    tile_logits,
    tile_slice,
)
from block_recurrent.ops.normalize import inverse_length

# A GPU splits the strip's gradient, a sum over blocks and batch rows, into this many parts, which
# gives work to all its multiprocessors.
NUM_PARTS = 8


class PerQuery(NamedTuple):
    """What the backward kernels read for each query.

    Attributes:
      d_out: gradient of the output.
      log_sum: log2 Σ exp(logit).
      delta: Σ out · d_out.
      factor: what the query is multiplied with to have its length.
    """

    d_out: Float[Array, "B T HK"]
    log_sum: Float[Array, "B H T 1"]
    delta: Float[Array, "B H T 1"]
    factor: Float[Array, "B H T 1"]


def d_queries(
    operands: Operands, per_query: PerQuery, tiling: Tiling, reach: int
) -> tuple[Float[Array, "B T HK"], Float[Array, "B H T 1"], Float[Array, "H C Q V"] | None]:
    """Gradients of the queries, of their lengths and of the strip.

    The grid is that of the forward kernel.

    A TPU runs the programs of a head in order, so they can add up the strip's gradient in VMEM. A
    GPU does not, and computes it in another kernel (`_d_strip`).

    Args:
      operands: what the forward kernel reads.
      per_query: of all queries.
      tiling: tiles and platform.
      reach: on a GPU, the tiles of the strip whose keys are all at distance ≥ `reach` are left out.
    """
    batch, heads, length, _ = per_query.log_sum.shape
    size = operands.queries.shape[2] // heads
    by_grid = operands.strip is not None and tiling.platform == "tpu"
    shape = jax.ShapeDtypeStruct
    numbers = per_query_spec(tiling)
    gradient, d_lengths, strip = launch(
        functools.partial(_d_queries_kernel, tiling=tiling),
        tiling,
        order=("parallel", "arbitrary", "arbitrary", "arbitrary"),
        grid=(heads, length // tiling.block, batch, tiling.num_query_tiles),
        in_specs=(
            operand_specs(operands, tiling, size),
            PerQuery(query_tile_spec(tiling, size), numbers, numbers, numbers),
        ),
        out_specs=(
            query_tile_spec(tiling, size),
            numbers,
            head_spec(operands.strip) if by_grid else None,
        ),
        out_shape=(
            shape(operands.queries.shape, operands.queries.dtype),
            shape(per_query.log_sum.shape, jnp.float32),
            shape(operands.strip.shape, jnp.float32) if by_grid else None,
        ),
    )(operands, per_query)
    if operands.strip is not None and not by_grid:
        strip = _d_strip(operands, per_query, tiling, reach)
    return gradient, d_lengths, strip


def _d_queries_kernel(
    operands: Operands, per_query: PerQuery, out, d_lengths, strip, *, tiling: Tiling
):
    """Computes one tile of queries of one head, block and batch row."""
    queries, d_out = operands.queries[...], per_query.d_out[...]
    log_sum, delta, factor = (ref[...] for ref in per_query[1:])
    _, block, row, query_tile = program_ids(4, tiling)
    keep_past = load_keep(operands, block, row)

    if strip is not None:

        @pl.when((block == 0) & (row == 0) & (query_tile == 0))
        def _():
            strip[...] = jnp.zeros_like(strip)

    def step(strip_tile, gradient):
        keys, values, keep, logits = load_key_tile(
            operands, queries, factor, query_tile, strip_tile, keep_past, tiling
        )
        mask = None if operands.dropout is None else operands.dropout[strip_tile]
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        if strip is not None:
            strip[strip_tile] += d_logits
        if keep is not None:
            d_logits = d_logits * keep
        return gradient + dot(d_logits.astype(keys.dtype), keys)

    start = jnp.zeros(queries.shape, jnp.float32)
    gradient = jax.lax.fori_loop(0, tiling.num_strip_tiles, step, start)
    unit = queries * inverse_length(queries)
    gradient, d_lengths[...] = split_gradient(unit, gradient)
    out[...] = (factor * gradient).astype(out.dtype)


def _gradients(logits, d_out, values, mask, keep, log_sum, delta):
    """The weights of a tile after dropout, m ∘ P, and the gradient of its logits, dS."""
    weights = jnp.exp2(logits - log_sum)
    d_weights = dot(d_out, values, (1, 1))
    if keep is not None:
        d_weights = d_weights * keep
    if mask is None:
        return weights, weights * (d_weights - delta)
    mask = mask.astype(jnp.float32)
    return weights * mask, weights * (d_weights * mask - delta)


def _d_strip(
    operands: Operands, per_query: PerQuery, tiling: Band, reach: int
) -> Float[Array, "H C Q V"]:
    """Gradient of the strip on a GPU, with one program per tile of the strip and part of the sum.

    Two matrix products per tile are computed again. That is cheaper than writing the gradient of
    the logits to memory, or adding it up there.
    """
    heads = per_query.log_sum.shape[1]
    tile, far = (tiling.tiles.queries, tiling.tiles.keys), tiling.num_far_tiles(reach)
    whole_arrays, per_query_specs = jax.tree.map(lambda _: pl.BlockSpec(), (operands, per_query))
    parts = launch(
        functools.partial(_d_strip_kernel, tiling=tiling, far=far),
        tiling,
        grid=(heads, NUM_PARTS, tiling.num_strip_tiles - far),
        in_specs=(whole_arrays._replace(strip=head_spec(operands.strip)), per_query_specs),
        out_specs=pl.BlockSpec((None, None, None, *tile), lambda h, p, c: (p, h, c, 0, 0)),
        out_shape=jax.ShapeDtypeStruct(
            (NUM_PARTS, heads, tiling.num_strip_tiles - far, *tile), jnp.float32
        ),
    )(operands, per_query)
    return parts.sum(axis=0)


def _d_strip_kernel(operands: Operands, per_query: PerQuery, out, *, tiling: Band, far: int):
    """Computes one tile of the strip of one head, summed over one part of all tiles of queries."""
    head, part, strip_tile = program_ids(3, tiling)
    strip_tile += far
    batch, heads, length, _ = per_query.log_sum.shape
    columns = tile_slice(head, operands.queries.shape[2] // heads)
    tiles = length // tiling.tiles.queries  # of queries in a row of the batch
    bias = tile_bias(operands.strip, strip_tile, tiling)

    def step(item, gradient):
        row, tile = item // tiles, item % tiles
        block, query_tile = tile // tiling.num_query_tiles, tile % tiling.num_query_tiles
        query_index = tile_slice(tile, tiling.tiles.queries)
        key_index = (
            row,
            tile_slice(tile * tiling.key_tiles_per_query_tile + strip_tile, tiling.tiles.keys),
            columns,
        )
        keep = None
        if operands.keep is not None:
            keep_past = operands.keep[block, row]
            keep = jnp.where(tiling.in_own_block(query_tile, strip_tile), 1.0, keep_past)
        mask = None if operands.dropout is None else operands.dropout[head, query_tile, strip_tile]
        queries, d_out = (
            ref[row, query_index, columns] for ref in (operands.queries, per_query.d_out)
        )
        log_sum, delta, factor = (ref[row, head, query_index, :] for ref in per_query[1:])
        values = operands.values[key_index]
        logits = tile_logits(queries, operands.keys[key_index], factor, keep, bias, None, tiling)
        _, d_logits = _gradients(logits, d_out, values, mask, keep, log_sum, delta)
        return gradient + d_logits

    total = batch * tiles
    first, last = part * total // NUM_PARTS, (part + 1) * total // NUM_PARTS
    out[...] = jax.lax.fori_loop(first, last, step, jnp.zeros(out.shape, jnp.float32))


def d_keys_values(
    operands: Operands,
    per_query: PerQuery,
    inverse: Float[Array, "B H T 1"] | None,
    tiling: Tiling,
    blocks: range,
) -> tuple[Float[Array, "B M HK"], Float[Array, "B M HK"]]:
    """Gradients of keys and values, with one program per tile of keys.

    In a band, a tile of keys is seen by the queries of its own block and of the next one.

    Args:
      operands: what the forward kernel reads.
      per_query: of all queries.
      inverse: 1 / √(Σ key² + ε) of the keys of `blocks` before normalization, for their gradients;
        None: for those of the unit keys.
      tiling: tiles and platform.
      blocks: the blocks of keys whose gradients to compute. In a band, 0 is the carried block.
    """
    batch, heads, length, _ = per_query.log_sum.shape
    first_axis, _, width = operands.keys.shape
    size, last = width // heads, length // tiling.block - 1

    def seen_by(offset):
        def block(n):
            return jnp.clip(blocks.start + n + offset, 0, last)

        whole = pl.BlockSpec((None, tiling.block, size), lambda h, n, b, c: (b, block(n), h))
        sums = pl.BlockSpec((None, None, tiling.block, 1), lambda h, n, b, c: (b, h, block(n), 0))
        return whole, PerQuery(whole, sums, sums, sums)

    tile = tiling.key_tile_spec(size, batch, blocks.start)
    gradient = tiling.key_tile_spec(size, batch, 0)
    strip, dropout = head_spec(operands.strip), head_spec(operands.dropout)
    keep = None if operands.keep is None else keep_flags_spec(tiling)
    keys = batch * len(blocks) * tiling.num_key_tiles * tiling.tiles.keys
    shape = (first_axis, keys // first_axis, width)
    return launch(
        functools.partial(_d_keys_values_kernel, tiling=tiling, first=blocks.start, last=last),
        tiling,
        grid=(heads, len(blocks), batch, tiling.num_key_tiles),
        in_specs=(
            tuple(map(seen_by, tiling.reader_offsets)),
            Operands(None, tile, tile, keep, strip, dropout),
            None if inverse is None else tiling.per_key_spec(),
        ),
        out_specs=(gradient, gradient),
        out_shape=(jax.ShapeDtypeStruct(shape, operands.keys.dtype),) * 2,
    )(
        ((operands.queries, per_query),) * len(tiling.reader_offsets),
        operands._replace(queries=None),
        inverse,
    )


def _d_keys_values_kernel(
    readers, operands: Operands, inverse, d_keys, d_values, *, tiling: Tiling, first: int, last: int
):
    """Computes one tile of keys of one head, block and batch row."""
    keys, values = operands.keys[...], operands.values[...]
    _, block, row, key_tile = program_ids(4, tiling)
    block += first
    carry = (jnp.zeros(keys.shape, jnp.float32), jnp.zeros(values.shape, jnp.float32))
    reading = zip(tiling.reader_offsets, readers, tiling.query_tile_ranges(key_tile), strict=True)
    for offset, (queries_ref, per_query), (begin, end, place) in reading:

        def step(query_tile, carry, queries_ref=queries_ref, per_query=per_query, place=place):
            d_keys, d_values = carry
            query_index = (tile_slice(query_tile, tiling.tiles.queries), slice(None))
            queries, d_out = queries_ref[query_index], per_query.d_out[query_index]
            strip_tile = place(query_tile)
            bias = tile_bias(operands.strip, strip_tile, tiling)
            mask = None if operands.dropout is None else operands.dropout[query_tile, strip_tile]
            log_sum, delta, factor = (ref[query_index] for ref in per_query[1:])
            logits = tile_logits(queries, keys, factor, None, bias, strip_tile, tiling)
            weights, d_logits = _gradients(logits, d_out, values, mask, None, log_sum, delta)
            d_values = d_values + dot(weights.astype(d_out.dtype), d_out, (0, 0))
            d_logits = (d_logits * factor).astype(queries.dtype)
            return d_keys + dot(d_logits, queries, (0, 0)), d_values

        seen = (block + offset >= 0) & (block + offset <= last)
        if operands.keep is not None and offset == 0:  # the next block may start a document
            seen &= operands.keep[jnp.minimum(block, last), row] != 0
        # Not `where`: Pallas' Triton backend would treat the two constants as booleans.
        carry = jax.lax.fori_loop(begin, begin + seen * (end - begin), step, carry)
    gradient, values_gradient = carry
    if inverse is not None:
        gradient = inverse[...] * split_gradient(keys, gradient)[0]
    d_keys[...] = gradient.astype(d_keys.dtype)
    d_values[...] = values_gradient.astype(d_values.dtype)
