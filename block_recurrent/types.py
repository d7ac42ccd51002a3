"""Axis letters and the pytrees that modules exchange.

Legend, used in every shape and in every einsum of the package:

    B  batch            W  window, which is also the block
    T  segment = N·W    S  states
    N  blocks           D  embedding
    H  heads            K  head size
    F  feed-forward     V  keys seen by a query (2W, or T)
    L  vocabulary

Inside the model, tokens are laid out in blocks, ``[N, B, W, …]``. The blocks come first because
they are the axis of time, over which `jax.lax.scan` runs.
"""

from typing import NamedTuple

from jaxtyping import Array, Float


class KV(NamedTuple):
    """Keys and values of one attention, heads before length: ``[…, H, M, K]``."""

    keys: Float[Array, "*axes K"]
    values: Float[Array, "*axes K"]


class LayerState(NamedTuple):
    """What one layer carries from segment to segment.

    Attributes:
      cache: keys and values of the last W tokens, ``[B, H, W, K]``; None under full attention.
      recurrent: state vectors ``[B, S, D]``; None in a layer without a recurrent cell.
    """

    cache: KV | None
    recurrent: Float[Array, "B S D"] | None


KeysValues = KV  # its public name of before

ModelState = tuple[LayerState, ...]
"""What the model carries from segment to segment: one entry per layer."""
