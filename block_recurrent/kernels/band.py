"""The band that a block's queries see, cut into tiles; what every kernel computes of one tile.

Query i of a block sees key j of the 2W before and around it iff i ≤ j < i + W. A tile of Q queries
therefore sees Q + W columns of keys, which begin at its own first row: the *strip*. In its strip a
tile finds the same distances, whatever its place in the block, so one strip of biases a head,
``[Q, W + Q]``, serves all tiles, and only its C = (W + Q) / V tiles of keys are ever visited:
of the 2W columns about half, all others being hidden.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.positions import HIDDEN, by_relative_position

LOG2_E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles, and how many warps and pipeline stages a GPU gives to one.

    The window is a multiple of `queries`, which is a multiple of `keys`.
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class Band:
    """A window, its tiles, and what computes them."""

    window: int
    tiles: Tiles
    platform: Literal["gpu", "tpu"]
    interpret: bool = False

    @property
    def query_tiles(self) -> int:
        """Tiles of queries in a block."""
        return self.window // self.tiles.queries

    @property
    def key_tiles(self) -> int:
        """Tiles of keys in a block."""
        return self.window // self.tiles.keys

    @property
    def strip_tiles(self) -> int:
        """Tiles of keys in the strip that a tile of queries sees."""
        return (self.window + self.tiles.queries) // self.tiles.keys

    @property
    def ratio(self) -> int:
        """Tiles of keys as long as one of queries."""
        return self.tiles.queries // self.tiles.keys

    def far_tiles(self, reach: int) -> int:
        """Tiles of keys, from the left of the strip, of which none is nearer than `reach`."""
        return max(self.window + 1 - reach, 0) // self.tiles.keys

    def is_own(self, query_tile, strip_tile) -> Array:
        """Whether a tile of the strip lies in the own block, not in the one before.

        Args:
          query_tile: whose strip, counted within the block.
          strip_tile: counted from the left of the strip.
        """
        return query_tile * self.ratio + strip_tile >= self.key_tiles


def tile_slice(tile, size) -> pl.Slice:
    """The rows, or columns, of a tile, counted in tiles of that size."""
    return pl.ds(pl.multiple_of(tile * size, size), size)


class Operands(NamedTuple):
    """What a kernel reads, as references.

    A tile of a head is so many rows and K columns of the projections' own layout, which nothing has
    to be transposed for.

    Attributes:
      queries: unit length times |scale|.
      keys: of the carried block and then of those of the segment; M = W + T.
      values: like the keys.
      keep: 0 where a document starts: the keys and values before it count as zeros.
      strip: the biases (`make_strip`), HIDDEN outside the band; None: no bias.
      dropout: multiplier of the weights by tile of the strip of each tile of queries.
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
    """Bias by distance 1 … R in the form that the platform's kernels read (`tile_bias`).

    A TPU, which cannot gather, reads tiles of the whole strip from its fast memory, where they lie
    during all programs of a head. A GPU gathers from the vector, which stays in the cache next to
    the processor, where the strip would double what the kernel reads from the cache of the chip.
    """
    columns = LOG2_E * pad_bias(bias, band)
    return spread_strip(columns, band) if band.platform == "tpu" else columns


def pad_bias(bias: Float[Array, "H R"], band: Band) -> Float[Array, "H P"]:
    """By column − row of the strip, from −(Q − 1) on: the key furthest back first.

    Less the bias of distance R, which all greater distances share: a softmax does not see that, and
    so the gradient of what remains is that of the distances below R.
    """
    rows = band.tiles.queries
    nearer = (bias - bias[:, -1:])[:, ::-1]
    nearer = jnp.pad(nearer, ((0, 0), (band.window - bias.shape[1], 0)))
    return jnp.pad(nearer, ((0, 0), (rows - 1, rows)), constant_values=HIDDEN)


def spread_strip(columns: Float[Array, "H P"], band: Band) -> Float[Array, "H C Q V"]:
    """The tiles of the strip."""
    rows, width = band.tiles.queries, band.strip_tiles * band.tiles.keys
    strip = by_relative_position(columns, rows, width)
    return jnp.moveaxis(strip.reshape(len(columns), rows, band.strip_tiles, -1), 2, 1)


def tile_bias(strip, strip_tile, band: Band) -> Float[Array, "Q V"] | None:
    """One tile of the biases of a head."""
    if strip is None:
        return None
    if band.platform == "tpu":
        return strip[strip_tile]
    row, column = _place_in_strip(strip_tile, band)
    return strip[column - row + (band.tiles.queries - 1)]


def _place_in_strip(strip_tile, band: Band):
    """Row and column in the strip of each pair of a tile."""
    shape = (band.tiles.queries, band.tiles.keys)
    row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    return row, jax.lax.broadcasted_iota(jnp.int32, shape, 1) + strip_tile * band.tiles.keys


def make_dropout(mask: Float[Array, "H W W2"], band: Band) -> Float[Array, "H R C Q V"]:
    """The strips of a mask over W queries and 2W keys."""
    rows, columns = band.tiles.queries, band.strip_tiles * band.tiles.keys
    strips = jnp.stack(
        [
            mask[:, first : first + rows, first : first + columns]
            for first in range(0, band.window, rows)
        ],
        axis=1,
    )
    strips = strips.reshape(*strips.shape[:3], band.strip_tiles, band.tiles.keys)
    return jnp.moveaxis(strips, 3, 2)


def dot(a: Array, b: Array, contract: tuple[int, int] = (1, 0)) -> Float[Array, "rows columns"]:
    """Product of two tiles, summed in float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def tile_logits(
    queries: Float[Array, "Q K"],
    keys: Float[Array, "V K"],
    keep: Float[Array, ""] | None,
    bias: Float[Array, "Q V"] | None,
    strip_tile,
    band: Band,
) -> Float[Array, "Q V"]:
    """(keep · (q · k) + bias) / ln 2, for powers of 2 are cheaper; HIDDEN outside the band."""
    logits = dot(queries, keys, (1, 1)) * (LOG2_E if keep is None else LOG2_E * keep)
    if bias is not None:
        return logits + bias
    row, column = _place_in_strip(strip_tile, band)
    return jnp.where((row <= column) & (column < row + band.window), logits, HIDDEN)
