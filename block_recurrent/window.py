"""The keys and values that the blocks of a segment see."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool

from block_recurrent.types import KeysValues


class Window(NamedTuple):
    """Each block sees its own tokens and those of the block before it.

    Attributes:
      tokens: keys and values ``[N, B, H, W, K]`` of the blocks.
      carried: those of the block before the first, ``[B, H, W, K]``.
      starts: True where a block begins a document, and sees zeros before it.
    """

    tokens: KeysValues
    carried: KeysValues
    starts: Bool[Array, "B N"] | None

    def joined(self) -> KeysValues:
        """The 2W keys and values of each block, the earlier ones first."""

        def previous_and_own(own, carried):
            previous = jnp.concatenate([carried[None].astype(own.dtype), own[:-1]])
            if self.starts is not None:
                previous = jnp.where(self.starts.T[:, :, None, None, None], 0, previous)
            return jnp.concatenate([previous, own], axis=-2)

        return KeysValues(*map(previous_and_own, self.tokens, self.carried))
