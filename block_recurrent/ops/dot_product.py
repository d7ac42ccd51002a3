"""Dot-product attention with a custom gradient."""

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

    The custom gradient makes fewer passes over arrays of [Q, V] than automatic differentiation. The
    result, not the weights, is divided by the softmax's denominator, and

        ∂logits = weights ∘ (∂y · valuesᵀ − Σ ∂y ∘ y)

    Args:
      queries: multiplied by the scale of the logits.
      keys: compared with the queries.
      values: averaged with the attention weights.
      bias: added to the logits.
      dropout: multipliers of the weights, 0 or 1 / (1 − rate). They get no gradient.
    """
    return _forward(queries, keys, values, bias, dropout)[0]


# Recomputes the weights in the backward pass instead of storing them. Created once, so that JAX
# traces equal layers only once.
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
    """Sums the gradient over the axes along which an array of `shape` was broadcast.

    Leading axes are summed by a matrix product. On a CPU, XLA's reduction takes 50 times as long.
    They are not flattened first: that would gather a batch that is split over devices.
    """
    leading = gradient.ndim - len(shape)
    if leading:
        ones = jnp.ones(gradient.shape[:leading], gradient.dtype)
        return jnp.tensordot(ones, gradient, leading, precision=jax.lax.Precision.HIGHEST)
    shared = [axis for axis, size in enumerate(shape) if size != gradient.shape[axis]]
    return jnp.sum(gradient, axis=shared, keepdims=True)
