"""Matrix product and ReLU, with custom gradients that take less time or memory.

The functions passed to `defvjp` are plain JAX, so gradients can be differentiated again, in forward
and reverse mode.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_vjp
def matmul(x: Float[Array, "*axes I"], kernel: Float[Array, "I O"]) -> Float[Array, "*axes O"]:
    """x · kernel. The kernel's gradient is a single product of two matrices.

    By default, JAX contracts all leading axes at once and transposes the result. On a CPU, XLA then
    writes a transposed copy of x first, which took a tenth of a training step.

    A CPU multiplies xᵀ · gradient at two thirds of the speed if x is the wider of the two. The
    kernel's gradient is then computed as the transpose of gradientᵀ · x. Without the barrier, XLA
    would turn that into the first product again.
    """
    return jnp.dot(x, kernel)


def _matmul_forward(x, kernel):
    return jnp.dot(x, kernel), (x, kernel)


def _matmul_backward(residuals, gradient):
    x, kernel = residuals
    rows, gradient_rows = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    if rows.shape[1] > gradient_rows.shape[1] and jax.default_backend() == "cpu":
        d_kernel = jax.lax.optimization_barrier(jnp.dot(gradient_rows.T, rows)).T
    else:
        d_kernel = jnp.dot(rows.T, gradient_rows)
    return jnp.dot(gradient, kernel.T), d_kernel


matmul.defvjp(_matmul_forward, _matmul_backward)


@jax.custom_vjp
def relu(x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """max(x, 0). The backward pass stores the result, which the next layer stores anyway, not x.

    The result is compared with ≠, because XLA turns max(x, 0) > 0 into x > 0. It would then keep x
    too, and a GPU could not compute the maximum at the end of the product that makes x.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = jnp.maximum(x, 0)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y != 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)
