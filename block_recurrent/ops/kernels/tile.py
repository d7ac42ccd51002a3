"""The arrays that the kernels read, and the maths of one tile."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.ops.kernels.band import Band, Tiling
from block_recurrent.ops.positions import HIDDEN, by_relative_position

LOG2_E = math.log2(math.e)


def tile_slice(tile, size) -> pl.Slice:
    """The slice of rows or columns that belongs to tile number `tile`."""
    return pl.ds(pl.multiple_of(tile * size, size), size)


class Operands(NamedTuple):
    """The arrays that a kernel reads; inside the kernel, references to them.

    Queries, keys and values have the layout of the projections, so nothing is transposed. A tile of
    one head is a range of rows and K columns.

    Attributes:
      queries: of any length. A factor for each of them gives the logits that they should have.
      keys: unit vectors: of the carried block, followed by those of the segment, M = W + T. For a
        rectangle: the keys of each block, ``[N·B, V, H·K]``.
      values: in the same layout as the keys.
      keep: 0 where a block starts a document, else 1. At 0, the keys and values of the previous
        block count as zeros.
      strip: the biases (`make_strip`), HIDDEN outside the band; None: no bias.
      dropout: multipliers of the weights, by tile of queries and tile of its strip.
    """

    queries: Float[Array, "B T HK"]
    keys: Float[Array, "B M HK"]
    values: Float[Array, "B M HK"]
    keep: Float[Array, "N B"] | None
    strip: Float[Array, "H C Q V"] | Float[Array, "H P"] | None
    dropout: Float[Array, "H R C Q V"] | None


def make_strip(
    bias: Float[Array, "H R"], band: Band
) -> Float[Array, "H C Q V"] | Float[Array, "H P"]:
    """Converts the bias by distance 1 … R to the form that `tile_bias` reads on this platform.

    A TPU cannot gather. It reads tiles of the whole strip, which stays in VMEM for all programs of
    a head. A GPU gathers from a vector of one bias per diagonal, which stays in the L1 cache.
    Reading the whole strip would double the kernel's traffic from the L2 cache.
    """
    columns = LOG2_E * pad_bias(bias, band)
    return spread_strip(columns, band) if band.platform == "tpu" else columns


def pad_bias(bias: Float[Array, "H R"], band: Band) -> Float[Array, "H P"]:
    """Bias by diagonal of the strip: by column − row, from −(Q − 1), the most distant keys first.

    The bias of distance R is subtracted from all biases. It is shared by all distances ≥ R, so
    these become zero. A softmax does not change if a constant is subtracted, and only the biases of
    distances below R need a gradient.
    """
    rows = band.tiles.queries
    nearer = (bias - bias[:, -1:])[:, ::-1]
    nearer = jnp.pad(nearer, ((0, 0), (band.block - bias.shape[1], 0)))
    return jnp.pad(nearer, ((0, 0), (rows - 1, rows)), constant_values=HIDDEN)


def spread_strip(columns: Float[Array, "H P"], band: Band) -> Float[Array, "H C Q V"]:
    """Spreads the bias by diagonal over the tiles of the strip."""
    rows, width = band.tiles.queries, band.num_strip_tiles * band.tiles.keys
    strip = by_relative_position(columns, rows, width)
    return jnp.moveaxis(strip.reshape(len(columns), rows, band.num_strip_tiles, -1), 2, 1)


def tile_bias(strip, strip_tile, tiling: Tiling) -> Float[Array, "Q V"] | None:
    """The biases of one tile of the strip; see `make_strip`."""
    if strip is None:
        return None
    if tiling.platform == "tpu":
        return strip[strip_tile]
    row, column = tiling.strip_coordinates(strip_tile)
    return strip[column - row + (tiling.tiles.queries - 1)]


def make_dropout(mask: Float[Array, "H W W2"], band: Band) -> Float[Array, "H R C Q V"]:
    """Cuts a mask over W queries and 2W keys into the strips of the tiles of queries."""
    rows, columns = band.tiles.queries, band.num_strip_tiles * band.tiles.keys
    strips = jnp.stack(
        [
            mask[:, first : first + rows, first : first + columns]
            for first in range(0, band.block, rows)
        ],
        axis=1,
    )
    strips = strips.reshape(*strips.shape[:3], band.num_strip_tiles, band.tiles.keys)
    return jnp.moveaxis(strips, 3, 2)


def dot(a: Array, b: Array, contract: tuple[int, int] = (1, 0)) -> Float[Array, "rows columns"]:
    """Product of two tiles, summed in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def tile_logits(
    queries: Float[Array, "Q K"],
    keys: Float[Array, "V K"],
    factor: Float[Array, "Q 1"],
    keep: Float[Array, ""] | None,
    bias: Float[Array, "Q V"] | None,
    strip_tile,
    tiling: Tiling,
) -> Float[Array, "Q V"]:
    """(factor · keep · (q · k) + bias) / ln 2, since exp2 is cheaper; HIDDEN outside the band."""
    factor = LOG2_E * (factor if keep is None else factor * keep)
    logits = dot(queries, keys, (1, 1)) * factor
    if bias is not None:
        return logits + bias
    return tiling.mask_hidden(logits, strip_tile)


def split_gradient(
    unit: Float[Array, "M K"], gradient: Float[Array, "M K"]
) -> tuple[Float[Array, "M K"], Float[Array, "M 1"]]:
    """Splits the gradient of c · u, for unit vectors u: its part across u, and its part along u.

    The second is the gradient of c. With u = x / √(Σx² + ε), the first times c / √(Σx² + ε) is the
    gradient of x.
    """
    along = jnp.sum(gradient * unit, axis=1, keepdims=True)
    return gradient - unit * along, along


def load_keep(operands: Operands, block, row) -> Float[Array, ""] | None:
    """0 if the block starts a document, else 1; None if no block does."""
    return None if operands.keep is None else operands.keep[block, row]


def load_key_tile(
    operands: Operands,
    queries: Float[Array, "Q K"],
    factor: Float[Array, "Q 1"],
    query_tile,
    strip_tile,
    keep_past: Float[Array, ""] | None,
    tiling: Tiling,
) -> tuple[Float[Array, "V K"], Float[Array, "V K"], Float[Array, ""] | None, Float[Array, "Q V"]]:
    """Loads a tile of the strip, in a kernel that reads its operands by `operand_specs`.

    Args:
      operands: references.
      queries: the tile of queries.
      factor: of the queries.
      query_tile: its index in the block.
      strip_tile: index of the tile of keys in the strip.
      keep_past: the result of `load_keep` for the block.
      tiling: tiles and platform.

    Returns:
      The keys, the values, 0 if both count as zeros, else 1 (None if no block starts a document),
      and the logits.
    """
    tile = tiling.first_key_tile(query_tile) + strip_tile
    index = (tile_slice(tile, tiling.tiles.keys), slice(None))
    keys, values = operands.keys[index], operands.values[index]
    keep = None
    if keep_past is not None:
        keep = jnp.where(tiling.in_own_block(query_tile, strip_tile), 1.0, keep_past)
    bias = tile_bias(operands.strip, strip_tile, tiling)
    return keys, values, keep, tile_logits(queries, keys, factor, keep, bias, strip_tile, tiling)
