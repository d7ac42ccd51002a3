"""RMS normalization, and L2 normalization of queries and keys."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-6


def rms_normalize(x: Float[Array, "*axes D"], scale: Float[Array, " D"]) -> Float[Array, "*axes D"]:
    """scale · x / √(mean(x²) + ε), in float32 (Zhang & Sennrich 2019)."""
    return _normalize(x, scale.astype(jnp.float32), x.shape[-1])


def l2_normalize(x: Float[Array, "*axes K"]) -> Float[Array, "*axes K"]:
    """x / √(Σx² + ε)."""
    return _normalize(x, jnp.ones(1), 1).astype(x.dtype)


def scaled_l2_normalize(
    x: Float[Array, "*axes H K"], scale: Float[Array, " H"]
) -> Float[Array, "*axes H K"]:
    """|scale| · x / √(Σx² + ε), with one scale per head.

    With the scale in the queries, a logit is just a dot product.
    """
    scale = jnp.abs(scale.astype(jnp.float32))[:, None]
    return _normalize(x, scale, 1).astype(x.dtype)


def inverse_length(x: Float[Array, "*axes D"], size: int = 1) -> Float[Array, "*axes 1"]:
    """1 / √(Σx² / size + ε), in float32."""
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return jax.lax.rsqrt(square / size + EPSILON)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _normalize(
    x: Float[Array, "*axes D"], scale: Float[Array, "*last #D"], size: int
) -> Float[Array, "*axes D"]:
    """scale · x / √(Σx² / size + ε), in float32.

    The custom gradient stores x and one number per vector. Automatic differentiation would store
    both factors of the product, each as large as x: a tenth of the memory of a training step.
    """
    return _forward(x, scale, size)[0]


def _forward(x, scale, size):
    inverse = inverse_length(x, size)
    return x * (inverse * scale), (x, inverse, scale)


def _backward(size, residuals, gradient):
    x, inverse, scale = residuals
    unscaled = gradient * scale
    projection = jnp.sum(unscaled * x, axis=-1, keepdims=True) * jnp.square(inverse) / size
    d_x = (inverse * (unscaled - x * projection)).astype(x.dtype)
    d_scale = gradient * x * inverse
    if scale.shape[-1] == 1:
        d_scale = jnp.sum(d_scale, axis=-1, keepdims=True)
    return d_x, jnp.sum(d_scale, axis=range(d_scale.ndim - scale.ndim))


_normalize.defvjp(_forward, _backward)
