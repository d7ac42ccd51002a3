"""What must hold of every variant of the architecture, whatever its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import BlockRecurrentTransformer, UserError
from tiny import TINY, VARIANTS, make_model, make_tokens

W = TINY.window_length
CARRYING = [name for name in VARIANTS if name != "full_attention"]


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


def close(actual, expected, name):
    tolerance = 5e-2 if name == "bfloat16" else 2e-5
    np.testing.assert_allclose(
        np.asarray(actual, np.float32), np.asarray(expected, np.float32), atol=tolerance, rtol=0
    )


def test_shapes_and_state(variant):
    model = make_model(**VARIANTS[variant])
    state = model.initial_state(2)
    logits, after = model(make_tokens(2, 3 * W), state)
    assert logits.shape == (2, 3 * W, TINY.vocab_size) and logits.dtype == jnp.float32
    assert len(state) == TINY.num_layers
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, after)
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, after)


def test_no_logit_depends_on_a_later_token(variant):
    """d logits[i] / d embedded token[j] is zero for j > i, and not for j = i, across windows."""
    model = make_model(**VARIANTS[variant])
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    length = 3 * W
    distinct = jnp.arange(length, dtype=jnp.int32)[None]  # every position has a row of its own
    state = model.initial_state(1)
    probe = jnp.asarray(np.random.default_rng(1).standard_normal(TINY.vocab_size), jnp.float32)

    def readings(embedding):
        bound = nnx.merge(graphdef, params | {"embedding": embedding})
        features, _ = bound.features(distinct, state)
        return features[0].astype(jnp.float32) @ params["embedding"].T @ probe

    jacobian = jax.jit(jax.jacrev(readings))(params["embedding"])[:, :length]  # [position, token, D]
    influence = np.abs(np.asarray(jacobian)).max(axis=-1)
    later = np.triu(np.ones((length, length), bool), 1)
    assert influence[later].max() == 0
    assert influence.diagonal().min() > 0
    if variant == "full_attention":
        assert influence[-1, 0] > 0


@pytest.mark.parametrize("variant", CARRYING)
def test_one_pass_equals_two_with_the_state_carried(variant):
    model = make_model(**VARIANTS[variant])
    tokens = make_tokens(2, 4 * W)
    whole, after_whole = model(tokens, model.initial_state(2))
    first, state = model(tokens[:, : 2 * W], model.initial_state(2))
    second, after = model(tokens[:, 2 * W :], state)
    close(jnp.concatenate([first, second], axis=1), whole, variant)
    jax.tree.map(lambda a, b: close(a, b, variant), after, after_whole)
    restarted, _ = model(tokens[:, 2 * W :], model.initial_state(2))
    assert np.abs(np.asarray(restarted - second)).max() > 1e-3, "the state carries nothing"


def test_reading_token_by_token_equals_one_pass(variant):
    """A growing last block, as in decoding: what comes later changes no logit before it."""
    model = make_model(**VARIANTS[variant])
    tokens = make_tokens(2, 3 * W)
    whole, _ = model(tokens, model.initial_state(2))
    step = jax.jit(lambda tokens, state: model(tokens, state))
    state, begin = model.initial_state(2), 0
    for position in range(3 * W):
        if variant != "full_attention":
            begin = position // W * W
        known = tokens[:, begin : position + 1]
        width = W if variant != "full_attention" else 3 * W
        filler = jnp.full((2, width - known.shape[1]), 259, jnp.int32)
        logits, after = step(jnp.concatenate([known, filler], axis=1), state)
        close(logits[:, position - begin], whole[:, position], variant)
        if variant != "full_attention" and position % W == W - 1:
            state = after


def test_a_document_start_blocks_every_leak(variant):
    """From a start on, logits are those of a model that has seen nothing before."""
    model = make_model(**VARIANTS[variant])
    tokens = make_tokens(2, 4 * W)
    _, state = model(make_tokens(2, 2 * W, seed=9), model.initial_state(2))
    starts = jnp.array([[False, False, True, False], [True, False, False, True]])
    logits, after = model(tokens, state, starts)
    alone, after_alone = model(tokens[:1, 2 * W :], model.initial_state(1))
    close(logits[:1, 2 * W :], alone, variant)
    first, _ = model(tokens[1:, : 3 * W], model.initial_state(1))
    close(logits[1:, : 3 * W], first, variant)
    last, _ = model(tokens[1:, 3 * W :], model.initial_state(1))
    close(logits[1:, 3 * W :], last, variant)
    jax.tree.map(lambda a, b: close(a[:1], b, variant), after, after_alone)
    unmarked, _ = model(tokens, state)
    assert np.abs(np.asarray(unmarked - logits)[0, 2 * W :]).max() > 1e-3


@pytest.mark.parametrize("variant", CARRYING)
def test_no_gradient_flows_into_the_state(variant):
    model = make_model(**VARIANTS[variant])
    tokens = make_tokens(1, 2 * W)
    grads = jax.grad(lambda state: model(tokens, state)[0].sum())(model.initial_state(1))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_dropout_needs_a_key_and_follows_it(variant):
    model = make_model(**VARIANTS[variant] | {"dropout_rate": 0.3})
    tokens = make_tokens(2, 2 * W)
    call = jax.jit(lambda key: model(tokens, model.initial_state(2), dropout_key=key)[0])
    one, again, other = (call(jax.random.key(seed)) for seed in (0, 0, 1))
    without, _ = model(tokens, model.initial_state(2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other, atol=1e-3)
    assert not np.allclose(one, without, atol=1e-3)


def test_a_window_sees_exactly_w_tokens_back():
    """In one layer: W tokens back reaches the logit, W + 1 does not, and nor does the own key."""
    model = make_model(num_layers=1, recurrent_layers=())
    tokens = make_tokens(1, 3 * W)
    base, _ = model(tokens, model.initial_state(1))
    for position in (0, 5, W, W + 3):
        changed, _ = model(
            tokens.at[0, position].set((tokens[0, position] + 1) % 260), model.initial_state(1)
        )
        differs = np.abs(np.asarray(changed - base)).max(axis=(0, 2)) > 1e-6
        expected = np.zeros(3 * W, bool)
        expected[position : position + W + 1] = True
        np.testing.assert_array_equal(differs, expected)


def test_segment_that_is_no_multiple_of_the_window():
    model = make_model()
    with pytest.raises(ValueError, match="12 tokens are no multiple of the window's 8"):
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
    by_mapping = BlockRecurrentTransformer({"num_layers": 3, "vocab_size": 9}, rngs=nnx.Rngs(0),
                                           embedding_size=8, mlp_dim=8, num_states=2)
    assert by_mapping.config.num_layers == 3 and by_mapping.embedding.shape == (9, 8)
