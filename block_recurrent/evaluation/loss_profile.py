"""Loss and accuracy by distance from the start of the document."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from block_recurrent.model.losses import TokenScores

NUM_BINS = 32  # enough for every distance that an int32 can hold


class Profile(NamedTuple):
    """Sums over tokens, binned by distance from the start of the document.

    Bin 0 holds the first token of every document, bin k the distances 2^(k − 1) … 2^k − 1.

    Attributes:
      nats: the loss.
      tokens: number of tokens.
      correct: number of tokens that the model ranked first.
    """

    nats: Float[Array | np.ndarray, "32"]
    tokens: Float[Array | np.ndarray, "32"]
    correct: Float[Array | np.ndarray, "32"]

    @property
    def bits_per_token(self) -> float:
        """Mean loss over all bins, in bits."""
        return float(self.nats.sum() / self.tokens.sum()) / math.log(2)


def bin_starts() -> Int[np.ndarray, "32"]:
    """The smallest distance in each bin."""
    return np.concatenate([[0], 2 ** np.arange(NUM_BINS - 1)])


def distances(
    starts: Bool[Array, "B N"], before: Int[Array, " B"], window_length: int
) -> Int[Array, "B T"]:
    """Distance of each token of a segment from the start of its document, in tokens.

    Args:
      starts: whether a block begins a document.
      before: number of tokens that each row has read of its document before this segment.
      window_length: tokens per block, W.
    """
    rows, num_blocks = starts.shape
    blocks = jnp.arange(num_blocks)
    latest = jax.lax.cummax(jnp.where(starts, blocks, -1), axis=1)
    carried = before[:, None] + window_length * blocks
    first = jnp.where(latest < 0, carried, window_length * (blocks - latest))
    return (first[:, :, None] + jnp.arange(window_length)).reshape(rows, -1)


def make_profile(
    scores: TokenScores, weights: Float[Array, "B T"], distance: Int[Array, "B T"]
) -> Profile:
    """Weighted sums in each bin.

    All are computed as one sum, because each sum over devices is an all-reduce.
    """
    bins = NUM_BINS - jax.lax.clz(distance)  # the number of binary digits
    in_bin = bins[..., None] == jnp.arange(NUM_BINS)
    summands = jnp.stack([scores.nats * weights, weights, scores.correct * weights])
    return Profile(*jnp.sum(jnp.where(in_bin, summands[..., None], 0), axis=(1, 2)))


def distance_table(profiles: Mapping[str, Profile]) -> dict[str, list | dict[str, list]]:
    """Tokens, bits per token and accuracy by distance, for JSON.

    Empty bins are left out at both ends, and null in between.

    Args:
      profiles: 'carried', and optionally other memories, over the same tokens.
    """
    tokens = profiles["carried"].tokens
    bins = slice(np.flatnonzero(tokens)[0], np.flatnonzero(tokens)[-1] + 1)

    def means(sums: Float[np.ndarray, "32"]) -> list[float | None]:
        pairs = zip(sums[bins].tolist(), tokens[bins].tolist(), strict=True)
        return [value / count if count else None for value, count in pairs]

    return {
        "first": bin_starts()[bins].tolist(),
        "last": [*(bin_starts()[1:] - 1).tolist(), 2**31 - 1][bins],
        "tokens": tokens[bins].astype(int).tolist(),
        "bits_per_token": {name: means(p.nats / math.log(2)) for name, p in profiles.items()},
        "accuracy": {name: means(p.correct) for name, p in profiles.items()},
    }


def sum_profiles(profiles: Sequence[Profile]) -> Profile:
    """Sum of the profiles, in float64."""
    parts = zip(*jax.device_get(profiles), strict=True)
    return Profile(*(np.sum(each, axis=0, dtype=np.float64) for each in parts))
