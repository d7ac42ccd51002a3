"""Which keys the queries of a block see, in tiles.

*Band*: sliding-window attention. The keys are the 2W keys of the previous block and the query's own
block. Query i sees key j iff i ≤ j < i + W. A tile of Q queries that starts at query q therefore
sees only the W + Q keys from key q on. These keys are the *strip* of the tile. Relative to its
strip, every tile of queries has the same distances. So one strip of biases per head,
``[Q, W + Q]``, serves all tiles. The kernels visit only the C = (W + Q) / V tiles of keys in the
strip, about half of the 2W columns; all other columns are hidden.

*Rectangle*: every query sees every key of its block, so the strip is all keys.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from block_recurrent.ops.positions import HIDDEN


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Numbers of queries and keys in a tile, and warps and pipeline stages per program on a GPU.

    The number of queries in a block must be a multiple of `queries`. In a band, `queries` must be a
    multiple of `keys`.
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a block of queries is cut into tiles, and the platform that computes them.

    The subclasses `Band` and `Rectangle` define which keys the queries see. They have the same
    interface, so that both use the same kernels.

    Attributes:
      block: queries in a block.
      tiles: sizes of the tiles.
      platform: the platform that the kernels are written for.
      interpret: run the kernels in Pallas' interpreter.
    """

    block: int
    tiles: Tiles
    platform: Literal["gpu", "tpu"]
    interpret: bool = False

    @property
    def num_query_tiles(self) -> int:
        """Number of tiles of queries in a block."""
        return self.block // self.tiles.queries


class Band(Tiling):
    """Blocks of W queries, which see the keys of their own block and of the previous one.

    Blocks of keys are counted from the carried block, which is number 0. Blocks of queries are
    counted from the first block of the segment.
    """

    # The keys of block m are seen by the queries of blocks m and m − 1.
    reader_offsets = (0, -1)

    @property
    def num_key_tiles(self) -> int:
        """Number of tiles of keys in a block."""
        return self.block // self.tiles.keys

    @property
    def num_strip_tiles(self) -> int:
        """Number of tiles of keys in the strip of a tile of queries."""
        return (self.block + self.tiles.queries) // self.tiles.keys

    @property
    def key_tiles_per_query_tile(self) -> int:
        """Number of tiles of keys with as many keys as a tile of queries has queries."""
        return self.tiles.queries // self.tiles.keys

    def num_far_tiles(self, reach: int) -> int:
        """Number of tiles at the left of the strip whose keys are all at distance ≥ `reach`."""
        return max(self.block + 1 - reach, 0) // self.tiles.keys

    def first_key_tile(self, query_tile) -> Array:
        """Index of the first tile of the strip, among the tiles of the 2W keys."""
        return query_tile * self.key_tiles_per_query_tile

    def query_tile_ranges(self, key_tile) -> tuple[tuple, ...]:
        """The tiles of queries that see a tile of keys, for each entry of `reader_offsets`.

        Returns:
          For each block of queries: the first tile, the end of the range, and a function that maps
          a tile of queries to the index of the tile of keys in its strip.
        """

        def strip_index(is_own):
            first = is_own * self.num_key_tiles + key_tile
            return lambda query_tile: first - query_tile * self.key_tiles_per_query_tile

        same_place = key_tile // self.key_tiles_per_query_tile
        return (
            (0, same_place + 1, strip_index(0)),
            (same_place, self.num_query_tiles, strip_index(1)),
        )

    def visible_keys_spec(self, size: int, batch: int) -> pl.BlockSpec:
        """The 2W keys that a block sees, from ``[B, W + T, H·K]``.

        For a grid of (head, block, batch row, tile). The 2W keys of neighbouring blocks overlap.
        """
        # Mosaic requires that either all axes are counted in elements or none.
        pair = (None, pl.Element(2 * self.block), pl.Element(size))
        return pl.BlockSpec(pair, lambda h, n, b, r: (b, n * self.block, h * size))

    def key_tile_spec(self, size: int, batch: int, first: int) -> pl.BlockSpec:
        """One tile of keys. Block n of the grid is block `first` + n of the keys."""
        tile, tiles = (None, self.tiles.keys, size), self.num_key_tiles
        return pl.BlockSpec(tile, lambda h, n, b, c: (b, (first + n) * tiles + c, h))

    def per_key_spec(self) -> pl.BlockSpec:
        """One number for each key of a tile, from ``[B, H, T, 1]``."""
        tile, tiles = (None, None, self.tiles.keys, 1), self.num_key_tiles
        return pl.BlockSpec(tile, lambda h, n, b, c: (b, h, n * tiles + c, 0))

    def mask_hidden(self, logits: Float[Array, "Q V"], strip_tile) -> Float[Array, "Q V"]:
        """Replaces the logits outside the band by HIDDEN."""
        row, column = self.strip_coordinates(strip_tile)
        return jnp.where((row <= column) & (column < row + self.block), logits, HIDDEN)

    def strip_coordinates(self, strip_tile) -> tuple[Array, Array]:
        """Row and column in the strip of each entry of one of its tiles."""
        shape = (self.tiles.queries, self.tiles.keys)
        row = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
        return row, jax.lax.broadcasted_iota(jnp.int32, shape, 1) + strip_tile * self.tiles.keys

    def in_own_block(self, query_tile, strip_tile) -> Array:
        """Whether a tile of keys belongs to the queries' own block, not to the previous one.

        Args:
          query_tile: index of the tile of queries in its block.
          strip_tile: index of the tile of keys in the strip.
        """
        return self.first_key_tile(query_tile) + strip_tile >= self.num_key_tiles


@dataclasses.dataclass(frozen=True)
class Rectangle(Tiling):
    """Each block has its own keys, and each of its queries sees all of them.

    Attributes:
      keys: keys in a block.
    """

    keys: int = dataclasses.field(kw_only=True)

    reader_offsets = (0,)

    @property
    def num_key_tiles(self) -> int:
        """Number of tiles of keys in a block."""
        return self.keys // self.tiles.keys

    @property
    def num_strip_tiles(self) -> int:
        """All tiles of keys."""
        return self.num_key_tiles

    def first_key_tile(self, query_tile) -> int:
        """The strip starts at the first key."""
        return 0

    def query_tile_ranges(self, key_tile) -> tuple[tuple, ...]:
        """All tiles of queries see the tile of keys; see `Band.query_tile_ranges`."""
        return ((0, self.num_query_tiles, lambda _: key_tile),)

    def visible_keys_spec(self, size: int, batch: int) -> pl.BlockSpec:
        """The keys of a block, from ``[N·B, V, H·K]``."""
        return pl.BlockSpec((None, self.keys, size), lambda h, n, b, r: (n * batch + b, 0, h))

    def key_tile_spec(self, size: int, batch: int, first: int) -> pl.BlockSpec:
        """One tile of keys. Block n of the grid is block `first` + n of the keys."""
        tile = (None, self.tiles.keys, size)
        return pl.BlockSpec(tile, lambda h, n, b, c: ((first + n) * batch + b, c, h))

    def mask_hidden(self, logits: Float[Array, "Q V"], strip_tile) -> Float[Array, "Q V"]:
        """Returns the logits: a rectangle hides nothing."""
        return logits
