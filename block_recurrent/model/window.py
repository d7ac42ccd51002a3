"""Projections of a segment, and the window of keys and values that each block sees."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from block_recurrent.ops.blocks import with_previous_block
from block_recurrent.types import KV


class Heads(NamedTuple):
    """Queries, keys and values of the blocks.

    Attributes:
      queries: unit vectors times |scale|.
      tokens: keys of unit length, and values.
      state_queries: like `queries`, for the states; None if no states are read.
      projections: all of them before normalization.
    """

    queries: Float[Array, "N B H W K"]
    tokens: KV
    state_queries: Float[Array, "N B H W K"] | None
    projections: "Heads | None" = None


class Window(NamedTuple):
    """What each block sees: the tokens of its own block and of the previous one.

    Attributes:
      tokens: keys and values of the blocks, ``[N, B, H, W, K]``.
      carried: keys and values of the block before the first, ``[B, H, W, K]``.
      starts: whether a block starts a document. Keys and values before it then count as zeros.
    """

    tokens: KV
    carried: KV
    starts: Bool[Array, "B N"] | None

    def joined(self) -> KV:
        """The 2W keys and values ``[N, B, H, 2W, K]`` that each block sees, the earlier first."""
        return KV(
            with_previous_block(self.tokens.keys, self.carried.keys, self.starts),
            with_previous_block(self.tokens.values, self.carried.values, self.starts),
        )
