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


def to_heads(x: Float[Array, "*axes HK"], num_heads: int) -> Float[Array, "*axes H K"]:
    """Splits the last axis into heads."""
    return x.reshape(*x.shape[:-1], num_heads, -1)


def to_blocks_of_heads(x: Float[Array, "B T H K"], window_length: int) -> Float[Array, "N B H W K"]:
    """Cuts a segment into blocks, and puts heads before the length."""
    batch, length, *heads = x.shape
    x = x.reshape(batch, length // window_length, window_length, *heads)
    return jnp.transpose(x, (1, 0, 3, 2, 4))


def from_blocks_of_heads(
    *results: Float[Array, "N B H W K"] | Float[Array, "B T H K"],
) -> Float[Array, "B T HK"]:
    """Joins blocks and heads again, those of several attentions side by side."""
    y = jnp.concatenate(results, axis=2)
    if y.ndim == 4:
        return y.reshape(*y.shape[:2], -1)
    blocks, batch, _, window, _ = y.shape
    return jnp.transpose(y, (1, 0, 3, 2, 4)).reshape(batch, blocks * window, -1)


def merge_heads(
    *results: Float[Array, "*axes K"], heads_axis: int = -3
) -> Float[Array, "*batch M HK"]:
    """Concatenates over heads the results of one or more attentions."""
    y = jnp.moveaxis(jnp.concatenate(results, axis=heads_axis), heads_axis, -2)
    return y.reshape(*y.shape[:-2], -1)


@jax.custom_vjp
def attend(
    queries: Float[Array, "*batch H Q K"],
    keys: Float[Array, "*batch H V K"],
    values: Float[Array, "*batch H V K"],
    bias: Float[Array, "*#batch H Q V"] | None = None,
    dropout: Float[Array, "H Q V"] | None = None,
) -> Float[Array, "*batch H Q K"]:
    """softmax(queries · keysᵀ + bias) · values, the softmax in float32.

    With a gradient of its own, which passes fewer times over arrays of [Q, V] than the chain rule
    does: the softmax's denominator divides the result instead of the weights, and

        ∂logits = weights ∘ (∂y · valuesᵀ − Σ ∂y ∘ y)
    """
    return _attend(queries, keys, values, bias, dropout)[0]


def _attend(queries, keys, values, bias, dropout):
    logits = jnp.einsum("...QK,...VK->...QV", queries, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    over = (1 / weights.sum(axis=-1, keepdims=True)).astype(values.dtype)
    weights = weights.astype(values.dtype)
    dropped = weights if dropout is None else weights * dropout
    y = jnp.einsum("...QV,...VK->...QK", dropped, values) * over
    return y, (queries, keys, values, bias, dropout, weights, over, y)


def _attend_backward(residuals, gradient):
    queries, keys, values, bias, dropout, weights, over, y = residuals
    gradient = gradient * over
    along = jnp.sum(gradient.astype(jnp.float32) * y, axis=-1, keepdims=True)
    toward = jnp.einsum("...QK,...VK->...QV", gradient, values, preferred_element_type=jnp.float32)
    dropped = weights
    if dropout is not None:
        dropped, toward = weights * dropout, toward * dropout
    logits = weights * (toward - along)
    bias = None if bias is None else _sum_to(bias.shape, logits)
    logits = logits.astype(queries.dtype)
    return (
        jnp.einsum("...QV,...VK->...QK", logits, keys),
        jnp.einsum("...QV,...QK->...VK", logits, queries),
        jnp.einsum("...QV,...QK->...VK", dropped, gradient),
        bias,
        None if dropout is None else jnp.zeros_like(dropout),  # a mask: nothing learns it
    )


attend.defvjp(_attend, _attend_backward)


def _sum_to(shape: tuple[int, ...], gradient: Float[Array, "*batch H Q V"]) -> Array:
    """The gradient of what was broadcast from `shape`.

    Over leading axes by a matrix product: on CPU, XLA's own reduction takes some 50 times as long.
    They are not flattened before it, which would gather a batch that is split over devices.
    """
    leading = gradient.ndim - len(shape)
    if leading:
        ones = jnp.ones(gradient.shape[:leading], gradient.dtype)
        return jnp.tensordot(ones, gradient, leading, precision=jax.lax.Precision.HIGHEST)
    shared = [axis for axis, size in enumerate(shape) if size != gradient.shape[axis]]
    return jnp.sum(gradient, axis=shared, keepdims=True)
