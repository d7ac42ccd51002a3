"""What attention computes from a segment, and the keys and values that its blocks see."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from block_recurrent.types import KV


class Heads(NamedTuple):
    """What attention computes from its input; `state_queries` only where it reads states.

    All as ``[B, T, H, K]`` where the fused kernels read them.
    """

    queries: Float[Array, "N B H W K"] | Float[Array, "B T H K"]
    tokens: KV
    state_queries: Float[Array, "N B H W K"] | Float[Array, "B T H K"] | None


class Window(NamedTuple):
    """Each block sees its own tokens and those of the block before it.

    Attributes:
      tokens: keys and values ``[N, B, H, W, K]`` of the blocks, or ``[B, T, H, K]`` of the segment,
        as the fused kernels read them.
      carried: those of the block before the first, ``[B, H, W, K]``.
      starts: True where a block begins a document, and sees zeros before it.
    """

    tokens: KV
    carried: KV
    starts: Bool[Array, "B N"] | None

    def last(self) -> KV:
        """Those of the last block, which the next segment is given as `carried`."""
        window = self.carried.keys.shape[2]

        def last_block(tokens):
            return tokens[-1] if tokens.ndim == 5 else tokens[:, -window:].swapaxes(1, 2)

        return jax.tree.map(last_block, self.tokens)

    def joined(self) -> KV:
        """The 2W keys and values ``[N, B, H, 2W, K]`` of each block, the earlier ones first.

        ``[N, B, 2W, H, K]`` of a segment.
        """

        def previous_and_own(own, carried):
            length_axis = -2
            if own.ndim == 4:
                length_axis, carried = -3, carried.swapaxes(1, 2)
                own = jnp.moveaxis(own.reshape(len(own), -1, *carried.shape[1:]), 1, 0)
            previous = jnp.concatenate([carried[None].astype(own.dtype), own[:-1]])
            if self.starts is not None:
                previous = jnp.where(self.starts.T[:, :, None, None, None], 0, previous)
            return jnp.concatenate([previous, own], axis=length_axis)

        return KV(*map(previous_and_own, self.tokens, self.carried))


def as_block(cache: KV, heads_axis: int) -> KV:
    """The tokens of which a `Window` of one block has this `last`."""
    return jax.tree.map(lambda leaf: leaf[None] if heads_axis == -3 else leaf.swapaxes(1, 2), cache)
