"""A model small enough for tests, and its variants."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from block_recurrent import BlockRecurrentTransformer, ModelConfig

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
    "two_recurrent_layers": {"recurrent_layers": (0, -1)},
    "feedback": {"feedback": True},
    "feedback_two_recurrent_layers": {"feedback": True, "recurrent_layers": (0, 2)},
    "rope": {"positions": "rope"},
    "sliding_window": {"recurrent_layers": ()},
    "full_attention": {"recurrent_layers": (), "attention": "full"},
    "bfloat16": {"dtype": "bfloat16"},
}


def make_model(seed: int = 0, **fields) -> BlockRecurrentTransformer:
    """A tiny model, every parameter moved from its initial value so that each one matters."""
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


def make_tokens(batch: int, length: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 260, (batch, length)), jnp.int32)
