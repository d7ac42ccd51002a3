"""Matrix product and ReLU, with gradients that XLA computes faster and in less memory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def matmul(x: Float[Array, "*axes I"], kernel: Float[Array, "I O"]) -> Float[Array, "*axes O"]:
    """x · kernel, where the gradient of the kernel is one product of two matrices.

    Left to itself, JAX contracts all axes in front at once and transposes the result, for which XLA
    on CPU first writes out a transposed copy of x: a tenth of a training step.
    """
    return jnp.dot(x, kernel)


def _matmul_forward(x, kernel):
    return matmul(x, kernel), (x, kernel)


def _matmul_backward(residuals, gradient):
    x, kernel = residuals
    rows, gradient_rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    return jnp.dot(gradient, kernel.T), jnp.dot(rows.T, gradient_rows)


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """max(x, 0), whose gradient keeps the result, which the layer above keeps anyway, not x."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)
