"""The public modules by themselves, and the pieces that they are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import KV, RecurrentCell, SlidingWindowAttention, scan_blocks
from block_recurrent.ops.dropout import tiled_dropout
from block_recurrent.ops.positions import by_relative_position, rotate, t5_bucket
from close import assert_close
from slow_attention import slow_attention


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_sliding_window_attention_equals_its_definition():
    attention = SlidingWindowAttention(12, 2, 6, 20, rngs=nnx.Rngs(0))
    attention.scale[...] = jnp.array([3.0, -2.0])
    x = normal(1, 60, 12)
    y, _ = jax.jit(attention)(x, attention.initial_cache(1))
    assert_close(y[0], slow_attention(attention, np.asarray(x[0])), terms=100)


def test_sliding_window_attention_carries_its_cache():
    attention = SlidingWindowAttention(12, 2, 6, 4, rngs=nnx.Rngs(0))
    attend, x = jax.jit(attention), normal(2, 16, 12)
    whole, _ = attend(x, attention.initial_cache(2))
    first, cache = attend(x[:, :8], attention.initial_cache(2))
    second, _ = attend(x[:, 8:], cache)
    assert_close(jnp.concatenate([first, second], 1), whole, terms=100)


@pytest.mark.parametrize("configuration", ["dual", "single", "skip"])
def test_recurrent_cell_is_a_scan_body(configuration):
    cell = RecurrentCell(12, 5, 2, 6, 20, configuration=configuration, rngs=nnx.Rngs(0))
    tokens = KV(normal(3, 2, 2, 8, 6), normal(3, 2, 2, 8, 6, seed=1))
    state, read = jax.lax.scan(cell, cell.initial_state(2), tokens)
    assert state.shape == (2, 5, 12) and read.keys.shape == (3, 2, 2, 5, 6)
    by_hand, step, read_by_hand = (
        cell.initial_state(2),
        jax.jit(cell),
        jax.jit(cell.read),
    )
    for n in range(3):
        assert_close(KV(read.keys[n], read.values[n]), read_by_hand(by_hand), terms=100)
        by_hand, _ = step(by_hand, KV(tokens.keys[n], tokens.values[n]))
    assert_close(state, by_hand, terms=100)


def test_a_start_inside_the_scan_restarts_only_its_row():
    cell = RecurrentCell(12, 5, 2, 6, 20, rngs=nnx.Rngs(0))
    tokens = KV(normal(3, 2, 2, 8, 6), normal(3, 2, 2, 8, 6, seed=1))
    before = normal(2, 5, 12, seed=2)
    starts = jnp.array([[False, True, False], [False, False, False]])
    state, _ = scan_blocks(cell, before, tokens, starts)
    later = jax.tree.map(lambda a: a[1:], tokens)
    fresh, _ = scan_blocks(cell, cell.initial_state(2), later)
    unbroken, _ = scan_blocks(cell, before, tokens)
    assert_close(state[0], fresh[0], terms=100)
    assert_close(state[1], unbroken[1], terms=100)


@pytest.mark.parametrize("queries, keys", [(4, 8), (5, 5), (1, 3)])
def test_by_relative_position(queries, keys):
    values = normal(2, queries + keys - 1)
    spread = by_relative_position(values, queries, keys)
    for i in range(queries):
        for j in range(keys):
            np.testing.assert_array_equal(spread[:, i, j], values[:, j - i + queries - 1])


def test_t5_buckets():
    buckets = t5_bucket(np.arange(1, 600))
    assert list(buckets[:15]) == list(range(1, 16))
    assert np.all(np.diff(buckets) >= 0) and buckets.max() == 31
    assert t5_bucket(np.array([128]))[0] == 31 and t5_bucket(np.array([16]))[0] == 16


def test_rotation_depends_on_the_difference_alone():
    q, k = normal(1, 8), normal(1, 8, seed=1)
    products = [
        float((rotate(q, np.array([i + 5])) @ rotate(k, np.array([i])).T)[0, 0]) for i in (0, 3, 90)
    ]
    lengths = float(jnp.linalg.norm(q) * jnp.linalg.norm(k))
    # An angle of 95 is rounded by up to 95 ε, as sums of 95² terms are.
    assert_close(np.array(products), np.full(3, products[0]), terms=95**2, scale=lengths)
    assert abs(products[0] - float((q @ k.T)[0, 0])) > 1e-3


def test_dropout_mask_repeats_after_128_positions_and_keeps_the_mean():
    x = jnp.ones((2, 512, 64))
    y = tiled_dropout(x, 0.25, jax.random.key(0))
    np.testing.assert_array_equal(y[:, :128], y[:, 128:256])
    np.testing.assert_array_equal(y[0], y[1])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    np.testing.assert_allclose(y.mean(), 1, atol=0.02)
    assert tiled_dropout(x, 0.25, None) is x


def test_parts_of_a_segment_have_the_same_dropout_masks():
    x, key = jnp.ones((2, 768, 4)), jax.random.key(0)
    parts = [tiled_dropout(part, 0.25, key) for part in jnp.split(x, 3, axis=1)]
    np.testing.assert_array_equal(jnp.concatenate(parts, axis=1), tiled_dropout(x, 0.25, key))
