"""A model small enough for tests, and its variants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import BlockRecurrentTransformer, ModelConfig
from close import assert_close

TINY = ModelConfig(
    num_layers=3,
    embedding_size=32,
    num_heads=2,
    head_size=16,
    mlp_dim=48,
    vocab_size=260,
    window_length=8,
    recurrent_layers=(-2,),
    num_states=6,
    dropout_rate=0.0,
)

VARIANTS = {
    "fixed_skip": {},
    "lstm_dual": {"gate": "lstm", "configuration": "dual"},
    "gru_single": {"gate": "gru", "configuration": "single"},
    "selective_skip": {"gate": "selective"},
    "two_recurrent_layers": {"recurrent_layers": (0, -1)},
    "feedback": {"feedback": True},
    "feedback_two_recurrent_layers": {"feedback": True, "recurrent_layers": (0, 2)},
    "modern": {"positions": "rope", "ngram_rows": 50, "gated_ffn": True},
    "sliding_window": {"recurrent_layers": ()},
    "full_attention": {"recurrent_layers": (), "attention": "full"},
    "bfloat16": {"dtype": "bfloat16"},
}

# What these have is in another variant, or is tested for itself (gates, types).
MARKS = {
    "gru_single": pytest.mark.long,
    "selective_skip": pytest.mark.slow,
    "two_recurrent_layers": pytest.mark.long,
    "feedback": pytest.mark.long,
    "bfloat16": pytest.mark.slow,
}


def marked(*names: str) -> list:
    """Variants as the parameters of a test."""
    return [pytest.param(name, marks=MARKS.get(name, ())) for name in names]


# Number of terms in the sums behind each output: a dozen sums of 16 to 64 terms in each layer.
TERMS = 500


def make_model(seed: int = 0, **fields) -> BlockRecurrentTransformer:
    """A tiny model. Every parameter is moved from its initial value, so that each one matters."""
    model = BlockRecurrentTransformer(TINY, rngs=nnx.Rngs(seed), **fields)
    rng = np.random.default_rng(seed)
    state = nnx.state(model)
    params = nnx.to_pure_dict(state)
    params = jax.tree.map(
        lambda p: p + jnp.asarray(0.1 * rng.standard_normal(p.shape), p.dtype), params
    )
    nnx.replace_by_pure_dict(state, params)
    nnx.update(model, state)
    return model


@functools.cache
def variant_model(name: str) -> BlockRecurrentTransformer:
    """The model of a variant. All tests share it, and must not change it."""
    return make_model(**VARIANTS[name])


def split(model: BlockRecurrentTransformer) -> tuple[nnx.GraphDef, dict]:
    """The structure of a model, and its parameters as a pure dict."""
    graphdef, params = nnx.split(model)
    return graphdef, nnx.to_pure_dict(params)


def forward(model: BlockRecurrentTransformer, tokens, state, starts=None, *, dropout_key=None):
    """``model(…)``, compiled."""
    return _forward(*split(model), tokens, state, starts, dropout_key)


@functools.partial(jax.jit, static_argnums=0)
def _forward(graphdef, params, tokens, state, starts, dropout_key):
    return nnx.merge(graphdef, params)(tokens, state, starts, dropout_key=dropout_key)


def assert_same_numbers(actual, expected, variant: str = ""):
    """Asserts that two results of a variant's model differ only by rounding."""
    if variant == "bfloat16":
        assert_close(actual, expected, terms=1, dtype=jnp.bfloat16)
    else:
        assert_close(actual, expected, terms=TERMS)


def make_tokens(batch: int, length: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 260, (batch, length)), jnp.int32)
