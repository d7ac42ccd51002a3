"""Properties of every variant of the architecture, for any parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import BlockRecurrentTransformer, UserError
from tiny import (
    TINY,
    VARIANTS,
    assert_same_numbers,
    forward,
    make_model,
    make_tokens,
    marked,
    split,
    variant_model,
)

W = TINY.window_length
CARRYING = marked(*(name for name in VARIANTS if name != "full_attention"))


@pytest.fixture(params=marked(*VARIANTS))
def variant(request):
    return request.param


def test_shapes_and_state(variant):
    model = variant_model(variant)
    state = model.initial_state(2)
    logits, after = jax.eval_shape(model, make_tokens(2, 3 * W), state)
    assert logits.shape == (2, 3 * W, TINY.vocab_size) and logits.dtype == jnp.float32
    assert len(state) == TINY.num_layers
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, after)


def test_no_logit_depends_on_a_later_token(variant):
    """d logits[i] / d embedded token[j] is zero for j > i, and not for j = i, across windows."""
    model = variant_model(variant)
    graphdef, params = split(model)
    length = 3 * W
    distinct = jnp.arange(length, dtype=jnp.int32)[None]  # every position has a row of its own
    state = model.initial_state(1)
    probe = jnp.asarray(np.random.default_rng(1).standard_normal(TINY.vocab_size), jnp.float32)

    def readings(embedding):
        bound = nnx.merge(graphdef, params | {"embedding": embedding})
        features, _ = bound.features(distinct, state)
        return features[0].astype(jnp.float32) @ params["embedding"].T @ probe

    def gradient(embedding, position):
        return jax.grad(lambda embedding: readings(embedding)[position])(embedding)[:length]

    gradient = jax.jit(gradient)  # jax.jacrev takes longer to compile
    jacobian = np.stack([gradient(params["embedding"], position) for position in range(length)])
    influence = np.abs(jacobian).max(axis=-1)  # of [position, token, D]
    later = np.triu(np.ones((length, length), bool), 1)
    assert influence[later].max() == 0
    assert influence.diagonal().min() > 0
    if variant == "full_attention":
        assert influence[-1, 0] > 0


@pytest.mark.parametrize("variant", CARRYING)
def test_one_pass_equals_two_with_the_state_carried(variant):
    model = variant_model(variant)
    tokens = make_tokens(2, 4 * W)
    nowhere = jnp.zeros((2, 4), bool)
    whole, after_whole = forward(model, tokens, model.initial_state(2), nowhere)
    first, state = forward(model, tokens[:, : 2 * W], model.initial_state(2))
    second, after = forward(model, tokens[:, 2 * W :], state)
    assert_same_numbers(jnp.concatenate([first, second], axis=1), whole, variant)
    assert_same_numbers(after, after_whole, variant)
    restarted, _ = forward(model, tokens[:, 2 * W :], model.initial_state(2))
    assert np.abs(np.asarray(restarted - second)).max() > 1e-3, "the state carries nothing"


def test_reading_token_by_token_equals_one_pass(variant):
    """The last block grows as in decoding. Later tokens do not change earlier logits."""
    model = variant_model(variant)
    is_full = variant == "full_attention"
    tokens, nowhere = make_tokens(2, 4 * W), jnp.zeros((2, 4), bool)
    whole, _ = forward(model, tokens, model.initial_state(2), nowhere)
    state, width = model.initial_state(2), 4 * W if is_full else W
    for position in range(4 * W):
        begin = position // width * width
        known = tokens[:, begin : position + 1]
        filler = jnp.full((2, width - known.shape[1]), 259, jnp.int32)
        so_far = jnp.concatenate([known, filler], axis=1)
        logits, after = forward(model, so_far, state, nowhere if is_full else None)
        assert_same_numbers(logits[:, position - begin], whole[:, position], variant)
        if position % width == width - 1:
            state = after


def test_a_document_start_blocks_every_leak(variant):
    """After a start, logits equal those of a model that has seen nothing before."""
    model = variant_model(variant)
    tokens = make_tokens(2, 4 * W)
    fresh, nowhere = model.initial_state(2), jnp.zeros((2, 4), bool)
    _, state = forward(model, make_tokens(2, 2 * W, seed=9), fresh)
    starts = jnp.array([[False, False, True, False], [True, False, False, True]])
    logits, after = forward(model, tokens, state, starts)
    alone, after_alone = forward(model, tokens[:, 2 * W :], fresh)
    assert_same_numbers(logits[0, 2 * W :], alone[0], variant)
    of_a_row = jax.tree.map(lambda x: x[0], (after, after_alone))
    assert_same_numbers(*of_a_row, variant)
    first, _ = forward(model, tokens, fresh, nowhere)
    assert_same_numbers(logits[1, : 3 * W], first[1, : 3 * W], variant)
    last, _ = forward(model, tokens[:, 3 * W :], fresh)
    assert_same_numbers(logits[1, 3 * W :], last[1], variant)
    unmarked, _ = forward(model, tokens, state, nowhere)
    assert np.abs(np.asarray(unmarked - logits)[0, 2 * W :]).max() > 1e-3


@pytest.mark.parametrize("variant", CARRYING)
def test_no_gradient_flows_into_the_state(variant):
    model = variant_model(variant)
    tokens = make_tokens(1, 2 * W)
    gradient = jax.jit(jax.grad(lambda state: model(tokens, state)[0].sum(), allow_int=True))
    leaves = jax.tree.leaves(gradient(model.initial_state(1)))
    floats = [leaf for leaf in leaves if leaf.dtype != jax.dtypes.float0]
    assert floats and all(not np.any(leaf) for leaf in floats)


def test_dropout_depends_on_the_key(variant):
    model = make_model(**VARIANTS[variant] | {"dropout_rate": 0.3})
    tokens, state = make_tokens(2, 2 * W), model.initial_state(2)
    one, again, other = (
        forward(model, tokens, state, dropout_key=jax.random.key(seed))[0] for seed in (0, 0, 1)
    )
    without, _ = forward(variant_model(variant), tokens, state)
    assert np.array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-3)
    assert not np.allclose(one, without, atol=1e-3)


def test_a_window_sees_exactly_w_tokens_back():
    """In one layer, the token W back affects a logit; W + 1 back and the token itself do not."""
    model = make_model(num_layers=1, recurrent_layers=())
    tokens = make_tokens(1, 3 * W)
    base, _ = forward(model, tokens, model.initial_state(1))
    for position in (0, 5, W, W + 3):
        other = tokens.at[0, position].set((tokens[0, position] + 1) % 260)
        changed, _ = forward(model, other, model.initial_state(1))
        differs = np.any(np.asarray(changed != base), axis=(0, 2))
        expected = np.zeros(3 * W, bool)
        expected[position : position + W + 1] = True
        np.testing.assert_array_equal(differs, expected)


def test_segment_must_be_a_multiple_of_the_window():
    model = make_model()
    with pytest.raises(ValueError, match="12 tokens are not a multiple of the window, 8"):
        model(make_tokens(1, 12), model.initial_state(1))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"recurrent_layers": (3,)}, "names layer 3, but the model has num_layers = 3"),
        ({"recurrent_layers": (-4,)}, "choose from -3 to 2"),
        ({"attention": "full"}, "set recurrent_layers = \\(\\)"),
        ({"recurrent_layers": (), "feedback": True}, "feedback = True needs"),
        ({"positions": "rope", "head_size": 15}, "needs an even head_size, not 15"),
    ],
)
def test_impossible_configurations(fields, message):
    with pytest.raises(UserError, match=message):
        BlockRecurrentTransformer(TINY, rngs=nnx.Rngs(0), **fields)


def test_configuration_by_mapping_object_or_keywords():
    by_mapping = nnx.eval_shape(
        lambda: BlockRecurrentTransformer(
            {"num_layers": 3, "vocab_size": 9}, rngs=nnx.Rngs(0), embedding_size=8, mlp_dim=8
        )
    )
    assert by_mapping.config.num_layers == 3 and by_mapping.embedding.shape == (9, 8)


@functools.cache
def loss_and_gradients(variant: str, remat: str):
    """Loss, state and all gradients of a model with two layers and dropout."""
    model = make_model(**VARIANTS[variant], num_layers=2, dropout_rate=0.1, remat=remat)
    graphdef, params = split(model)
    tokens, starts = make_tokens(2, 24), jnp.zeros((2, 3), bool).at[0, 1].set(True)

    def loss(params):
        model = nnx.merge(graphdef, params)
        logits, state = model(tokens, model.initial_state(2), starts, dropout_key=jax.random.key(0))
        return jnp.square(logits).mean(), state

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


@pytest.mark.parametrize(
    "variant", ["fixed_skip", pytest.param("feedback", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("remat", [pytest.param("attention", marks=pytest.mark.slow), "layer"])
def test_rematerialisation_changes_no_number(variant, remat):
    """Loss, state and gradients with dropout are the same with and without `remat`."""
    expected, found = (loss_and_gradients(variant, each) for each in ("none", remat))
    assert_same_numbers(found, expected)


@pytest.mark.parametrize(
    "remat", ["none", "layer", pytest.param("attention", marks=pytest.mark.long)]
)
def test_equal_layers_are_traced_once(remat):
    """With more layers, the lowered gradient has more calls, but not more functions."""

    def functions_and_calls(num_layers):
        model = make_model(num_layers=num_layers, remat=remat)
        graphdef, params = split(model)
        tokens, state = make_tokens(2, 2 * W), model.initial_state(2)

        def loss(params):
            return nnx.merge(graphdef, params)(tokens, state)[0].sum()

        program = jax.jit(jax.grad(loss)).lower(params).as_text()
        return program.count("func.func private @run_layer"), program.count("call @run_layer")

    (functions, calls), (same, more) = functions_and_calls(4), functions_and_calls(6)
    assert same == functions and more >= calls + 4
