"""Dot-product attention, with a gradient of its own."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def attend(
    queries: Float[Array, "*batch H Q K"],
    keys: Float[Array, "*batch H V K"],
    values: Float[Array, "*batch H V K"],
    bias: Float[Array, "*#batch H Q V"] | None = None,
    dropout: Float[Array, "H Q V"] | None = None,
) -> Float[Array, "*batch H Q K"]:
    """softmax(queries · keysᵀ + bias) · values, with the softmax in float32.

    Its gradient makes fewer passes over arrays of [Q, V] than the chain rule: the softmax's
    denominator divides the result instead of the weights, and

        ∂logits = weights ∘ (∂y · valuesᵀ − Σ ∂y ∘ y)

    Args:
      queries: times the scale of the logits.
      keys: to compare with.
      values: to average.
      bias: added to the logits.
      dropout: multiplier of the weights, 0 or 1 / (1 − rate). It gets no gradient.
    """
    return _forward(queries, keys, values, bias, dropout)[0]


# Computes the weights again for the gradient instead of keeping them. Made once, so that JAX
# recognises layers that are alike.
attend_with_remat = jax.checkpoint(attend)


def _forward(queries, keys, values, bias, dropout):
    logits = jnp.einsum("...QK,...VK->...QV", queries, keys, preferred_element_type=jnp.float32)
    if bias is not None:
        logits = logits + bias
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    inverse = (1 / weights.sum(axis=-1, keepdims=True)).astype(values.dtype)
    weights = weights.astype(values.dtype)
    dropped = weights if dropout is None else weights * dropout
    y = jnp.einsum("...QV,...VK->...QK", dropped, values) * inverse
    return y, (queries, keys, values, bias, dropout, weights, inverse, y)


def _backward(residuals, gradient):
    queries, keys, values, bias, dropout, weights, inverse, y = residuals
    gradient = gradient * inverse
    delta = jnp.sum(gradient.astype(jnp.float32) * y, axis=-1, keepdims=True)
    d_weights = jnp.einsum(
        "...QK,...VK->...QV", gradient, values, preferred_element_type=jnp.float32
    )
    dropped = weights
    if dropout is not None:
        dropped, d_weights = weights * dropout, d_weights * dropout
    d_logits = weights * (d_weights - delta)
    d_bias = None if bias is None else _sum_to(bias.shape, d_logits)
    d_logits = d_logits.astype(queries.dtype)
    return (
        jnp.einsum("...QV,...VK->...QK", d_logits, keys),
        jnp.einsum("...QV,...QK->...VK", d_logits, queries),
        jnp.einsum("...QV,...QK->...VK", dropped, gradient),
        d_bias,
        None if dropout is None else jnp.zeros_like(dropout),
    )


attend.defvjp(_forward, _backward)


def _sum_to(shape: tuple[int, ...], gradient: Float[Array, "*batch H Q V"]) -> Array:
    """The gradient of an array that was broadcast from `shape`.

    Leading axes are summed by a matrix product: on a CPU, XLA's own reduction takes 50 times as
    long. They are not flattened first, which would gather a batch that is split over devices.
    """
    leading = gradient.ndim - len(shape)
    if leading:
        ones = jnp.ones(gradient.shape[:leading], gradient.dtype)
        return jnp.tensordot(ones, gradient, leading, precision=jax.lax.Precision.HIGHEST)
    shared = [axis for axis, size in enumerate(shape) if size != gradient.shape[axis]]
    return jnp.sum(gradient, axis=shared, keepdims=True)
