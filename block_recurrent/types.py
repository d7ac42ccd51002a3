"""Axis letters, and the types of the state that modules pass on.

Legend, used in every shape and in every einsum of the package:

    B  batch            W  window, which is also the block
    T  segment = N·W    S  states
    N  blocks           D  embedding
    H  heads            K  head size
    F  feed-forward     V  keys seen by a query (2W, or T)
    L  vocabulary

Inside the model, tokens are laid out in blocks, ``[N, B, W, …]``. The axis of blocks is first
because `jax.lax.scan` runs over it.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class KV(NamedTuple):
    """Keys and values, with the heads before the length: ``[…, H, M, K]``."""

    keys: Float[Array, "*axes K"]
    values: Float[Array, "*axes K"]


class LayerState(NamedTuple):
    """The state that one layer carries from segment to segment.

    Attributes:
      cache: keys and values of the last W tokens, ``[B, H, W, K]``; None under full attention.
      recurrent: state vectors ``[B, S, D]``; None in a layer without a recurrent cell.
    """

    cache: KV | None
    recurrent: Float[Array, "B S D"] | None


class BottomState(NamedTuple):
    """The state of the bottom layer of a model with n-grams: also the last C = 3 tokens read."""

    cache: KV | None
    recurrent: Float[Array, "B S D"] | None
    tokens: Int[Array, "B C"]


KeysValues = KV  # its former public name

ModelState = tuple[LayerState | BottomState, ...]
"""The state that the model carries from segment to segment: one entry per layer."""
