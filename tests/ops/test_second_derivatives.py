"""Gradients of the package's own gradients: Hessian-vector products, in either mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.ops.dot_product import attend
from block_recurrent.ops.matmul import matmul, relu
from block_recurrent.ops.normalize import l2_normalize, rms_normalize, scaled_l2_normalize
from tiny import assert_same_numbers, make_model, make_tokens, split


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def plain_attention(queries, keys, values, bias):
    logits = jnp.einsum("...QK,...VK->...QV", queries, keys) + bias
    return jnp.einsum("...QV,...VK->...QK", jax.nn.softmax(logits), values)


def plain_normalize(x, scale=1.0):
    return scale * x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


def plain_rms_normalize(x, scale):
    return scale * x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


OPERATIONS = {
    "matmul": (matmul, jnp.dot, [(2, 3, 4), (4, 5)]),
    "relu": (lambda x: relu(x) ** 3, lambda x: jnp.maximum(x, 0) ** 3, [(3, 4)]),
    "rms_normalize": (rms_normalize, plain_rms_normalize, [(3, 6), (6,)]),
    "l2_normalize": (l2_normalize, plain_normalize, [(3, 6)]),
    "scaled_l2_normalize": (
        scaled_l2_normalize,
        lambda x, scale: plain_normalize(x, jnp.abs(scale)[:, None]),
        [(3, 2, 6), (2,)],
    ),
    "attend": (attend, plain_attention, [(2, 2, 4, 3), (2, 2, 5, 3), (2, 2, 5, 3), (2, 4, 5)]),
}


def hessian_vector_products(function, arguments, direction):
    """The products by jvp of grad and by grad of grad, for a loss not linear in the output."""

    def gradient(arguments):
        return jax.grad(lambda arguments: jnp.sum(jnp.sin(function(*arguments))))(arguments)

    def along(arguments):
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient(arguments), direction)
        return sum(jax.tree.leaves(products))

    forward = jax.jvp(gradient, (arguments,), (direction,))[1]
    return forward, jax.grad(along)(arguments)


@pytest.mark.parametrize("name", OPERATIONS)
def test_hessian_vector_products_equal_those_of_the_plain_function(name):
    function, plain, shapes = OPERATIONS[name]
    arguments = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    direction = [normal(*shape, seed=9 + i) for i, shape in enumerate(shapes)]
    products = jax.jit(hessian_vector_products, static_argnums=0)
    found, expected = (products(each, arguments, direction) for each in (function, plain))
    assert_same_numbers(found, expected)


@pytest.mark.parametrize("name", ["matmul", "relu", "l2_normalize", "attend"])
def test_first_derivatives_in_forward_mode_are_refused(name):
    function, _, shapes = OPERATIONS[name]
    arguments = [normal(*shape) for shape in shapes]
    with pytest.raises(TypeError, match="can't apply forward-mode .*custom_vjp"):
        jax.jvp(function, arguments, arguments)


def gradient_of(model):
    """The gradient of a loss as a function of the parameters, and the parameters."""
    graphdef, params = split(model)
    tokens = make_tokens(1, 16)

    def loss(params):
        logits, _ = nnx.merge(graphdef, params)(tokens)
        return jnp.square(logits).mean()

    return jax.grad(loss), params


@pytest.mark.slow
def test_a_model_has_hessian_vector_products():
    """jvp of grad equals grad of grad."""
    gradient, params = gradient_of(make_model(num_layers=1, recurrent_layers=(0,), gate="lstm"))
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)

    def along(params):
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient(params), direction)
        return sum(jax.tree.leaves(products))

    @jax.jit
    def both(params):
        return jax.jvp(gradient, (params,), (direction,))[1], jax.grad(along)(params)

    forward, reverse = both(params)
    for a, b in zip(jax.tree.leaves(forward), jax.tree.leaves(reverse), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * float(jnp.abs(a).max()) + 1e-9)


def test_fused_kernels_refuse_second_derivatives():
    model = make_model(num_layers=1, recurrent_layers=(0,), attention_kernel="pallas")
    gradient, params = gradient_of(model)
    with pytest.raises(NotImplementedError, match="set attention_kernel = 'xla'"):
        jax.eval_shape(lambda p: jax.jvp(gradient, (p,), (p,)), params)
