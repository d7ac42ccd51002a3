"""Loss, accuracy and size of the states by distance from the start of the document."""

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
    """Sums over tokens and states, binned by distance from the start of the document.

    Bin 0 holds the first token of every document, bin k the distances 2^(k − 1) … 2^k − 1.

    Attributes:
      nats: the loss.
      tokens: number of tokens.
      correct: number of tokens that the model ranked first.
      squares: mean square of the recurrent states after a segment, binned by its last position.
      states: number of those means.
    """

    nats: Float[Array | np.ndarray, "32"]
    tokens: Float[Array | np.ndarray, "32"]
    correct: Float[Array | np.ndarray, "32"]
    squares: Float[Array | np.ndarray, "32"]
    states: Float[Array | np.ndarray, "32"]

    @property
    def bits_per_token(self) -> float:
        """Mean loss over all bins, in bits; NaN without tokens."""
        return float(self.nats.sum()) / (float(self.tokens.sum()) or math.nan) / math.log(2)


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
    scores: TokenScores,
    weights: Float[Array, "B T"],
    distance: Int[Array, "B T"],
    squares: Float[Array, " B"],
    counted: Bool[Array, " B"],
) -> Profile:
    """Sums in each bin.

    All are computed as one sum, because each sum over devices is an all-reduce.

    Args:
      scores: of the tokens of a segment.
      weights: of the tokens.
      distance: of each token from the start of its document.
      squares: mean square of the recurrent states after the segment.
      counted: whether to count these states.
    """
    bins = NUM_BINS - jax.lax.clz(distance)  # the number of binary digits
    in_bin = bins[..., None] == jnp.arange(NUM_BINS)
    ends = jnp.zeros(weights.shape, bool).at[:, -1].set(counted)
    summands = jnp.stack(
        [
            scores.nats * weights,
            weights,
            scores.correct * weights,
            jnp.where(ends, squares[:, None], 0),
            ends.astype(weights.dtype),
        ]
    )
    return Profile(*jnp.sum(jnp.where(in_bin, summands[..., None], 0), axis=(1, 2)))


def distance_table(profiles: Mapping[str, Profile]) -> dict[str, list | dict[str, list]]:
    """Tokens, bits per token, accuracy and RMS of the recurrent states by distance, for JSON.

    Empty bins at both ends are left out. Other bins without tokens, or in which no segment ends,
    are null. Without recurrent states there is no RMS.

    Args:
      profiles: 'carried', and optionally other memories, over the same tokens.
    """
    tokens = profiles["carried"].tokens
    used = np.flatnonzero(tokens)
    bins = slice(used[0], used[-1] + 1) if len(used) else slice(0)

    def means(sums: Float[np.ndarray, "32"], counts: Float[np.ndarray, "32"]) -> list[float | None]:
        pairs = zip(sums[bins].tolist(), counts[bins].tolist(), strict=True)
        return [value / count if count else None for value, count in pairs]

    table = {
        "first": bin_starts()[bins].tolist(),
        "last": [*(bin_starts()[1:] - 1).tolist(), 2**31 - 1][bins],
        "tokens": tokens[bins].astype(int).tolist(),
        "bits_per_token": {
            name: means(p.nats / math.log(2), tokens) for name, p in profiles.items()
        },
        "accuracy": {name: means(p.correct, tokens) for name, p in profiles.items()},
    }
    if profiles["carried"].states.any():
        table["state_rms"] = {
            name: [
                None if square is None else math.sqrt(square)
                for square in means(p.squares, p.states)
            ]
            for name, p in profiles.items()
        }
    return table


def sum_profiles(profiles: Sequence[Profile]) -> Profile:
    """Sum of the profiles, in float64."""
    parts = zip(*jax.device_get(profiles), strict=True)
    return Profile(*(np.sum(each, axis=0, dtype=np.float64) for each in parts))
