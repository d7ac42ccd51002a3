"""What a block's queries see, cut into tiles; what every kernel computes of one tile.

*The band* of sliding-window attention: query i of a block sees key j of the 2W before and around it
iff i ≤ j < i + W. A tile of Q queries therefore sees Q + W columns of keys, which begin at its own
first row: the *strip*. In its strip a tile finds the same distances, whatever its place in the
block, so one strip of biases a head, ``[Q, W + Q]``, serves all tiles, and only its
C = (W + Q) / V tiles of keys are ever visited: of the 2W columns about half, all others being
hidden.

*The rectangle*, where every query sees every key: its strip is all of them.
"""

import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.ops.positions import HIDDEN, by_relative_position

LOG2_E = math.log2(math.e)


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Sizes of the tiles, and how many warps and pipeline stages a GPU gives to one.

    A block is a multiple of `queries`, which in a band is a multiple of `keys`.
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The queries of a block, their tiles, and what computes them.

    A subclass says what they see: `key_tiles` of keys a block, `strip_tiles` of them a tile of
    queries, from `first_tile` on, and the rest, for the kernels to be the same.
    """

    block: int
    tiles: Tiles
    platform: Literal["gpu", "tpu"]
    interpret: bool = False

    @property
    def query_tiles(self) -> int:
        """Tiles of queries in a block."""
        return self.block // self.tiles.queries


class Band(Tiling):
    """A block is as long as the window, and sees its own keys and those of the block before."""

    # By which blocks of queries the keys of block m, of which 0 is the carried one, are seen.
    readers = (0, -1)

    @property
    def key_tiles(self) -> int:
        """Tiles of keys in a block."""
        return self.block // self.tiles.keys

    @property
    def strip_tiles(self) -> int:
        """Tiles of keys in the strip that a tile of queries sees."""
        return (self.block + self.tiles.queries) // self.tiles.keys

    @property
    def ratio(self) -> int:
        """Tiles of keys as long as one of queries."""
        return self.tiles.queries // self.tiles.keys

    def far_tiles(self, reach: int) -> int:
        """Tiles of keys, from the left of the strip, of which none is nearer than `reach`."""
        return max(self.block + 1 - reach, 0) // self.tiles.keys

    def first_tile(self, query_tile) -> Array:
        """Where the strip of a tile of queries begins, in tiles of the 2W keys."""
        return query_tile * self.ratio

    def spans(self, key_tile) -> tuple[tuple, ...]:
        """Of each reader the tiles of queries that see a tile of keys, and where in their strips.

        As first tile, end, and a function from a tile of queries to the place in its strip.
        """

        def in_strip(own):
            return lambda tile: own * self.key_tiles + key_tile - tile * self.ratio

        mine = key_tile // self.ratio
        return (0, mine + 1, in_strip(0)), (mine, self.query_tiles, in_strip(1))

    def seen_spec(self, size: int, batch: int) -> pl.BlockSpec:
        """Keys that a block sees, of ``[B, W + T, H·K]``, for a grid of (head, block, row, tile).

        Two neighbouring blocks, of which every block is in its turn the second and the first.
        """
        # Mosaic wants all axes to be counted in elements, or none.
        pair = (None, pl.Element(2 * self.block), pl.Element(size))
        return pl.BlockSpec(pair, lambda h, n, b, r: (b, n * self.block, h * size))

    def key_spec(self, size: int, batch: int, first: int) -> pl.BlockSpec:
        """A tile of keys, the blocks being counted from `first` on."""
        tile, tiles = (None, self.tiles.keys, size), self.key_tiles
        return pl.BlockSpec(tile, lambda h, n, b, c: (b, (first + n) * tiles + c, h))

    def hide(self, logits: Float[Array, "Q V"], strip_tile) -> Float[Array, "Q V"]:
        """HIDDEN outside the band."""
        row, column = self.place_in_strip(strip_tile)
        return jnp.where((row <= column) & (column < row + self.block), logits, HIDDEN)

    def place_in_strip(self, strip_tile) -> tuple[Array, Array]:
        """Row and column in the strip of each pair of a tile."""
        shape = (self.tiles.queries, self.tiles.keys)
        row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        return row, jax.lax.broadcasted_iota(jnp.int32, shape, 1) + strip_tile * self.tiles.keys

    def is_own(self, query_tile, strip_tile) -> Array:
        """Whether a tile of the strip lies in the own block, not in the one before.

        Args:
          query_tile: whose strip, counted within the block.
          strip_tile: counted from the left of the strip.
        """
        return self.first_tile(query_tile) + strip_tile >= self.key_tiles


@dataclasses.dataclass(frozen=True)
class Rectangle(Tiling):
    """Every block has keys of its own, all of which each of its queries sees."""

    keys: int = dataclasses.field(kw_only=True)

    readers = (0,)

    @property
    def key_tiles(self) -> int:
        """Tiles of keys in a block."""
        return self.keys // self.tiles.keys

    @property
    def strip_tiles(self) -> int:
        """All of them."""
        return self.key_tiles

    def first_tile(self, query_tile) -> int:
        """Where the strip begins."""
        return 0

    def spans(self, key_tile) -> tuple[tuple, ...]:
        """All tiles of queries see it; see `Band.spans`."""
        return ((0, self.query_tiles, lambda _: key_tile),)

    def seen_spec(self, size: int, batch: int) -> pl.BlockSpec:
        """Keys of a block, of ``[N·B, V, H·K]``."""
        return pl.BlockSpec((None, self.keys, size), lambda h, n, b, r: (n * batch + b, 0, h))

    def key_spec(self, size: int, batch: int, first: int) -> pl.BlockSpec:
        """A tile of keys, the blocks being counted from `first` on."""
        tile = (None, self.tiles.keys, size)
        return pl.BlockSpec(tile, lambda h, n, b, c: ((first + n) * batch + b, c, h))

    def hide(self, logits: Float[Array, "Q V"], strip_tile) -> Float[Array, "Q V"]:
        """Nothing is hidden."""
        return logits


def tile_slice(tile, size) -> pl.Slice:
    """The rows, or columns, of a tile, counted in tiles of that size."""
    return pl.ds(pl.multiple_of(tile * size, size), size)


class Operands(NamedTuple):
    """What a kernel reads, as references.

    A tile of a head is so many rows and K columns of the projections' own layout, which nothing has
    to be transposed for.

    Attributes:
      queries: unit length times |scale|.
      keys: of the carried block and then of those of the segment, M = W + T; under a rectangle of
        each block by itself, ``[N·B, V, H·K]``.
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
    nearer = jnp.pad(nearer, ((0, 0), (band.block - bias.shape[1], 0)))
    return jnp.pad(nearer, ((0, 0), (rows - 1, rows)), constant_values=HIDDEN)


def spread_strip(columns: Float[Array, "H P"], band: Band) -> Float[Array, "H C Q V"]:
    """The tiles of the strip."""
    rows, width = band.tiles.queries, band.strip_tiles * band.tiles.keys
    strip = by_relative_position(columns, rows, width)
    return jnp.moveaxis(strip.reshape(len(columns), rows, band.strip_tiles, -1), 2, 1)


def tile_bias(strip, strip_tile, tiling: Tiling) -> Float[Array, "Q V"] | None:
    """One tile of the biases of a head."""
    if strip is None:
        return None
    if tiling.platform == "tpu":
        return strip[strip_tile]
    row, column = tiling.place_in_strip(strip_tile)
    return strip[column - row + (tiling.tiles.queries - 1)]


def make_dropout(mask: Float[Array, "H W W2"], band: Band) -> Float[Array, "H R C Q V"]:
    """The strips of a mask over W queries and 2W keys."""
    rows, columns = band.tiles.queries, band.strip_tiles * band.tiles.keys
    strips = jnp.stack(
        [
            mask[:, first : first + rows, first : first + columns]
            for first in range(0, band.block, rows)
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
    tiling: Tiling,
) -> Float[Array, "Q V"]:
    """(keep · (q · k) + bias) / ln 2, for powers of 2 are cheaper; HIDDEN what is not seen."""
    logits = dot(queries, keys, (1, 1)) * (LOG2_E if keep is None else LOG2_E * keep)
    if bias is not None:
        return logits + bias
    return tiling.hide(logits, strip_tile)
