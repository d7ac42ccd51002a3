"""What attention computes from a segment, and the keys and values that its blocks see."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from block_recurrent.dot_product import to_blocks_of_heads
from block_recurrent.types import KeysValues


class Heads(NamedTuple):
    """What attention computes from its input; `state_queries` only where it reads states.

    Queries, keys and values of tokens, if the fused kernels read them, as ``[B, T, H, K]``.
    """

    queries: Float[Array, "N B H W K"] | Float[Array, "B T H K"]
    tokens: KeysValues
    state_queries: Float[Array, "N B H W K"] | None


class Window(NamedTuple):
    """Each block sees its own tokens and those of the block before it.

    Attributes:
      tokens: keys and values ``[N, B, H, W, K]`` of the blocks, or ``[B, T, H, K]`` of the segment,
        as the fused kernels read them.
      carried: those of the block before the first, ``[B, H, W, K]``.
      starts: True where a block begins a document, and sees zeros before it.
    """

    tokens: KeysValues
    carried: KeysValues
    starts: Bool[Array, "B N"] | None

    def last(self) -> KeysValues:
        """Those of the last block, which the next segment is given as `carried`."""
        window = self.carried.keys.shape[2]

        def last_block(tokens):
            return tokens[-1] if tokens.ndim == 5 else tokens[:, -window:].swapaxes(1, 2)

        return jax.tree.map(last_block, self.tokens)

    def joined(self) -> KeysValues:
        """The 2W keys and values ``[N, B, H, 2W, K]`` of each block, the earlier ones first."""

        def previous_and_own(own, carried):
            if own.ndim == 4:
                merged = own.reshape(*own.shape[:2], -1)
                own = to_blocks_of_heads(merged, carried.shape[2], carried.shape[1])
            previous = jnp.concatenate([carried[None].astype(own.dtype), own[:-1]])
            if self.starts is not None:
                previous = jnp.where(self.starts.T[:, :, None, None, None], 0, previous)
            return jnp.concatenate([previous, own], axis=-2)

        return KeysValues(*map(previous_and_own, self.tokens, self.carried))
