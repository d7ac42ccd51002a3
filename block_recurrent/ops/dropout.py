"""Dropout with small masks, which are shared by the batch and repeat along the text."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

TILE = 128


def dropout_multiplier(
    shape: tuple[int, ...], rate: float, key: Key[Array, ""], dtype: jnp.dtype
) -> Array:
    """An array of `shape`: 0 with probability `rate`, else 1 / (1 − rate)."""
    return jax.random.bernoulli(key, 1 - rate, shape).astype(dtype) / (1 - rate)


def tiled_dropout(
    x: Float[Array, "*batch W D"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "*batch W D"]:
    """Drops entries of x with a mask that repeats every 128 positions; without a key, returns x."""
    if key is None or rate == 0:
        return x
    length, width = x.shape[-2:]
    tile = math.gcd(TILE, length)
    return x * jnp.tile(dropout_multiplier((tile, width), rate, key, x.dtype), (length // tile, 1))
