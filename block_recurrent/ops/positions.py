"""Positions of keys relative to queries: T5 buckets and rotary embedding."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

NUM_BUCKETS = 32
MAX_DISTANCE = 128
HIDDEN = -1e9  # logit of a key that a query does not see


def t5_bucket(distance: Int[np.ndarray, " M"]) -> Int[np.ndarray, " M"]:
    """T5 bucket of a distance (query − key ≥ 0): exact below 16, then log-spaced up to 128."""
    exact = NUM_BUCKETS // 2
    octaves = np.log(np.maximum(distance, exact) / exact) / np.log(MAX_DISTANCE / exact)
    coarse = exact + (octaves * (NUM_BUCKETS - exact)).astype(np.int32)
    return np.where(distance < exact, distance, np.minimum(coarse, NUM_BUCKETS - 1))


def rotate(x: Float[Array, "*axes M K"], positions: Int[np.ndarray, "*#axes #M"]) -> Array:
    """Rotary position embedding (Su et al. 2021): pair (k, k + K/2) rotates by position · θ_k."""
    return rotate_by(x, *rotations(positions, x.shape[-1]))


def rotations(
    positions: Int[np.ndarray, "*axes M"], head_size: int
) -> Float[np.ndarray, "2 *axes M half"]:
    """Cosine and sine of position · θ_k."""
    half = head_size // 2
    angle = positions[..., None] * 10_000.0 ** (-np.arange(half) / half)
    return np.stack([np.cos(angle), np.sin(angle)])


def rotate_by(
    x: Float[Array, "*axes M K"],
    cos: Float[Array | np.ndarray, "*#axes #M half"],
    sin: Float[Array | np.ndarray, "*#axes #M half"],
) -> Float[Array, "*axes M K"]:
    """Rotates each pair by its angle."""
    half = x.shape[-1] // 2
    cos, sin = jnp.asarray(cos, x.dtype), jnp.asarray(sin, x.dtype)
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def by_relative_position(
    values: Float[Array, "H M"], num_queries: int, num_keys: int
) -> Float[Array, "H Q V"]:
    """result[h, i, j] = values[h, j − i + Q − 1] for query i and key j, where M = Q + V − 1.

    Repeats a period of M + 1 values and reshapes it to rows of M, so that each row starts one
    position later. The gradient is a reshape too; the gradient of a gather would be a scatter.
    """
    heads, length = values.shape
    period = jnp.pad(values, ((0, 0), (0, 1)))
    rows = jnp.tile(period, (1, num_queries))[:, : num_queries * length]
    return rows.reshape(heads, num_queries, length)[:, :, num_queries - 1 :][:, :, :num_keys]
