"""Norms and ReLU: values and gradients against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent.model.feed_forward import RMSNorm
from block_recurrent.ops.matmul import relu
from block_recurrent.ops.normalize import EPSILON, l2_normalize, scaled_l2_normalize
from close import assert_close


def rms_norm(x, scale):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + EPSILON) * scale


def l2_norm(x, scale):
    return x / jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + EPSILON) * scale


def layer(x, scale):
    norm = RMSNorm(len(scale), rngs=nnx.Rngs(0))
    norm.scale[...] = scale
    return norm(x)


CASES = {
    "layer": (layer, rms_norm, (16,)),
    "queries": (scaled_l2_normalize, lambda x, scale: l2_norm(x, jnp.abs(scale)[:, None]), (4,)),
    "keys": (lambda x, scale: l2_normalize(x), lambda x, scale: l2_norm(x, 1), (4,)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1.0, 1e-3])  # where ε counts, too
def test_value_and_gradient(case, size):
    ours, plain, shape = CASES[case]
    rng = np.random.default_rng(0)
    x, d_y = (jnp.asarray(rng.standard_normal((2, 3, 4, 16)), jnp.float32) for _ in range(2))
    scale = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    values, gradients = zip(
        *(
            (y, backward(d_y))
            for y, backward in (jax.vjp(f, size * x, scale) for f in (ours, plain))
        ),
        strict=True,
    )
    assert_close(*values, terms=16)
    assert_close(*gradients, terms=24 * 16)


def test_zero_vectors_are_not_divided_by_zero():
    for f in (
        l2_normalize,
        lambda x: scaled_l2_normalize(x, jnp.ones(1)),
        lambda x: layer(x, jnp.ones(8)),
    ):
        y, gradient = jax.value_and_grad(lambda x, f=f: f(x).sum())(jnp.zeros((1, 8)))
        assert y == 0 and np.isfinite(gradient).all()


def test_bfloat16_is_normed_in_float32():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 256)), jnp.bfloat16)
    y = l2_normalize(x)
    assert y.dtype == jnp.bfloat16
    wanted = l2_normalize(x.astype(jnp.float32))
    np.testing.assert_array_equal(y, wanted.astype(jnp.bfloat16))


def test_relu_passes_gradients_where_it_is_positive():
    x = jnp.asarray([-2.0, -0.0, 0.0, 3.0])
    y, backward = jax.vjp(relu, x)
    np.testing.assert_array_equal(y, [0, 0, 0, 3])
    np.testing.assert_array_equal(*backward(jnp.ones(4)), [0, 0, 0, 1])
