"""Plain attention, interpreted fused kernels, and inputs for both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from block_recurrent import KV
from block_recurrent.ops.attention import window_attention as xla_attention
from block_recurrent.ops.blocks import from_blocks_of_heads, to_blocks_of_heads
from block_recurrent.ops.dot_product import attend
from block_recurrent.ops.kernels.band import Band, Rectangle, Tiles
from block_recurrent.ops.kernels.window_attention import (
    Tilings,
    unmasked_attention,
    window_attention,
)
from block_recurrent.ops.normalize import l2_normalize, scaled_l2_normalize
from close import assert_close

TILES = ((8, 4), (8, 8), (4, 4))


def make_inputs(blocks, batch, heads, window, size, dtype=jnp.float32, seed=0):
    """The inputs of `window_attention`, with queries and keys of any length."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    shape = (batch, blocks * window, heads, size)
    block = (batch, window, heads, size)
    queries, tokens = normal(*shape), KV(normal(*shape), normal(*shape))
    carried = KV(l2_normalize(normal(*block)), normal(*block))
    scale = jnp.linspace(2.0, 5.0, heads)
    starts = jnp.asarray(rng.random((batch, blocks)) < 0.5)
    bias = jnp.asarray(rng.standard_normal((heads, window)), jnp.float32)
    dropout = jnp.asarray(rng.random((heads, window, 2 * window)) < 0.7, dtype) / 0.7
    return queries, scale, tokens, carried, starts, bias, dropout


def plain_attention(queries, scale, tokens, carried, starts, bias, dropout):
    """The result of `window_attention`, computed with W × 2W weights by XLA.

    tests/model/test_modules.py compares that implementation with its definition, token by token.
    """
    window = carried.keys.shape[1]
    queries = scaled_l2_normalize(queries, scale)
    tokens = tokens._replace(keys=l2_normalize(tokens.keys))
    carried = jax.tree.map(lambda block: block.swapaxes(1, 2), carried)
    queries, tokens = jax.tree.map(lambda x: to_blocks_of_heads(x, window), (queries, tokens))
    return from_blocks_of_heads(xla_attention(queries, tokens, carried, starts, bias, dropout))


def with_gradients(attention, inputs, d_out):
    """The output, and the gradients of queries, scale, tokens, carried block and bias."""
    queries, scale, tokens, carried, starts, bias, dropout = inputs

    def function(queries, scale, tokens, carried, bias):
        return attention(queries, scale, tokens, carried, starts, bias, dropout)

    out, backward = jax.vjp(function, queries, scale, tokens, carried, bias)
    return out, *backward(d_out)


run = jax.jit(with_gradients, static_argnums=0)


@functools.cache  # so that what is compiled for the same function is found again
def fused(platform, *tiles):
    """`window_attention` with these tiles, in Pallas' interpreter."""

    def attention(queries, scale, tokens, carried, *rest):
        window = carried.keys.shape[1]
        bands = Tilings(*(Band(window, Tiles(*each), platform, interpret=True) for each in tiles))
        return window_attention(queries, scale, tokens, carried, *rest, bands)

    return attention


NAMES = ("out", "queries", "scale", "tokens", "carried", "bias")


def assert_same(attention, inputs, expected=plain_attention, logits=1):
    """Asserts equality with `expected`. An error of the logits is a relative one of the weights."""
    d_out = jnp.asarray(np.random.default_rng(9).standard_normal(inputs[0].shape), inputs[0].dtype)
    expected = run(expected, inputs, d_out)
    found = run(attention, inputs, d_out)
    for name, want, have in zip(NAMES, expected, found, strict=True):
        largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves((jnp.ones(()), want)))
        assert_rounded(have, want, inputs[2].keys, logits * largest, name)


def assert_rounded(found, expected, keys, scale=1, name=""):
    """Asserts equality up to the rounding of four sums over the head size or over all tokens."""
    *_, heads, size = keys.shape
    terms = 4 if keys.dtype == jnp.bfloat16 else 4 * (keys.size // (heads * size) + size)
    assert_close(found, expected, terms=terms, dtype=keys.dtype, scale=scale, name=name)


# Without band and bias


def make_unmasked(blocks, batch, heads, queries, keys, size, dtype=jnp.float32):
    """The inputs of `unmasked_attention`: queries, their scale, keys and values per block."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), dtype)

    shape = (blocks, batch, keys, heads, size)
    rows, scale = normal(batch, blocks * queries, heads, size), jnp.linspace(2.0, 5.0, heads)
    return rows, scale, KV(l2_normalize(normal(*shape)), normal(*shape))


def plain_unmasked_attention(queries, scale, keys_values):
    """The result of `unmasked_attention`."""
    keys, values = (x.swapaxes(-3, -2) for x in keys_values)
    queries = scaled_l2_normalize(queries, scale)
    queries = to_blocks_of_heads(queries, queries.shape[1] // len(keys))
    return from_blocks_of_heads(attend(queries, keys, values))


def rectangle(platform, queries, keys, *tiles):
    """`unmasked_attention` with these tiles, in Pallas' interpreter."""
    tilings = Tilings(
        *(Rectangle(queries, Tiles(*each), platform, True, keys=keys) for each in tiles)
    )
    return lambda *inputs: unmasked_attention(*inputs, tilings)


def unmasked_with_gradients(attention, inputs, d_out):
    out, backward = jax.vjp(attention, *inputs)
    return out, *backward(d_out)
