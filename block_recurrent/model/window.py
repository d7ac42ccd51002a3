"""What attention computes from a segment, and the keys and values that its blocks see."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from block_recurrent.ops.blocks import with_previous_block
from block_recurrent.types import KV


class Heads(NamedTuple):
    """Queries, keys and values of the blocks; `state_queries` only where tokens read states."""

    queries: Float[Array, "N B H W K"]
    tokens: KV
    state_queries: Float[Array, "N B H W K"] | None


class Window(NamedTuple):
    """Each block sees its own tokens and those of the block before.

    Attributes:
      tokens: keys and values of the blocks, ``[N, B, H, W, K]``.
      carried: those of the block before the first, ``[B, H, W, K]``.
      starts: where a block begins a document, and sees zeros before it.
    """

    tokens: KV
    carried: KV
    starts: Bool[Array, "B N"] | None

    def last(self) -> KV:
        """Keys and values of the last block: what the next segment gets as `carried`."""
        return jax.tree.map(lambda blocks: blocks[-1], self.tokens)

    def joined(self) -> KV:
        """The 2W keys and values ``[N, B, H, 2W, K]`` that each block sees, the earlier first."""
        return KV(
            with_previous_block(self.tokens.keys, self.carried.keys, self.starts),
            with_previous_block(self.tokens.values, self.carried.values, self.starts),
        )
