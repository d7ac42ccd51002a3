"""Pieces that every attention of the package is made of: tokens and states share them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def to_blocks(x: Float[Array, "B T D"], window_length: int) -> Float[Array, "N B W D"]:
    """Cuts a segment into blocks, in front of the batch."""
    batch, length, width = x.shape
    return jnp.moveaxis(x.reshape(batch, length // window_length, window_length, width), 1, 0)


def from_blocks(x: Float[Array, "N B W D"]) -> Float[Array, "B T D"]:
    """Joins the blocks again."""
    blocks, batch, window, width = x.shape
    return jnp.moveaxis(x, 0, 1).reshape(batch, blocks * window, width)


def unit(x: Float[Array, "*axes K"]) -> Float[Array, "*axes K"]:
    """x over its L2 norm."""
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-6).astype(x.dtype)


def scaled_unit(
    x: Float[Array, "*batch H M K"], scale: Float[Array, " H"]
) -> Float[Array, "*batch H M K"]:
    """Unit queries times |scale| of their head: an attention logit is then a mere product."""
    return unit(x) * jnp.abs(scale)[:, None, None].astype(x.dtype)


def to_heads(x: Float[Array, "*batch M HK"], num_heads: int) -> Float[Array, "*batch H M K"]:
    """Splits the last axis into heads, before the length."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], num_heads, -1), -2, -3)


def merge_heads(*results: Float[Array, "*batch H M K"]) -> Float[Array, "*batch M HK"]:
    """Concatenates over heads the results of one or more attentions."""
    y = jnp.concatenate(results, axis=-3)
    return jnp.moveaxis(y, -3, -2).reshape(*y.shape[:-3], y.shape[-2], -1)


def attend(
    queries: Float[Array, "*batch H Q K"],
    keys: Float[Array, "*batch H V K"],
    values: Float[Array, "*batch H V K"],
    bias: Float[Array, "*#batch H Q V"] | None = None,
    dropout: Float[Array, "H Q V"] | None = None,
) -> Float[Array, "*batch H Q K"]:
    """softmax(queries · keysᵀ + bias) · values, the softmax in float32."""
    logits = jnp.einsum("...QK,...VK->...QV", queries, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = add_bias(logits, bias)
    weights = jax.nn.softmax(logits).astype(values.dtype)
    if dropout is not None:
        weights = weights * dropout
    return jnp.einsum("...QV,...VK->...QK", weights, values)


@jax.custom_vjp
def add_bias(
    logits: Float[Array, "*batch H Q V"], bias: Float[Array, "*#batch H Q V"]
) -> Float[Array, "*batch H Q V"]:
    """logits + bias, where the gradient of a bias that all share is summed by a matrix product.

    On CPU, XLA's own reduction over leading axes takes some 50 times as long, which is a tenth of a
    training step.
    """
    return logits + bias


def _add_bias_forward(logits, bias):
    return logits + bias, bias


def _add_bias_backward(bias, gradient):
    shared = gradient.ndim - bias.ndim
    if shared:
        # Contracted axis by axis: flattening them first would gather a batch split over devices.
        ones = jnp.ones(gradient.shape[:shared], gradient.dtype)
        total = jnp.tensordot(ones, gradient, shared, precision=jax.lax.Precision.HIGHEST)
    else:
        shared = [axis for axis, size in enumerate(bias.shape) if size != gradient.shape[axis]]
        total = jnp.sum(gradient, axis=shared, keepdims=True)
    return gradient, total


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
