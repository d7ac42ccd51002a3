"""Parameters in bfloat16: half the memory, and the computation is that of float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import (
    BlockRecurrentTransformer,
    Generator,
    UserError,
    load_model,
    load_state,
    save_model,
    save_state,
)
from block_recurrent.model.transformer import abstract_model, parameters
from tiny import assert_same_numbers, make_model, make_tokens

ALL = {"gate": "lstm", "configuration": "dual", "ngram_rows": 50, "gated_ffn": True}
KINDS = {
    "dual": ALL,
    "selective_rope": {"gate": "selective", "positions": "rope"},
    "lstm": {"layer": "lstm", "recurrent_layers": ()},
}


@functools.cache
def models(kind: str) -> tuple[BlockRecurrentTransformer, BlockRecurrentTransformer]:
    """A model with parameters in bfloat16, and one with the same values in float32."""
    fields = {"num_layers": 2, "recurrent_layers": (-1,)} | KINDS[kind]
    model = make_model(param_dtype="bfloat16", **fields)
    config = dataclasses.replace(model.config, param_dtype="float32")
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), parameters(model))
    return model, nnx.merge(abstract_model(config)[0], params)


@pytest.mark.parametrize(
    "kind", ["dual", "lstm", pytest.param("selective_rope", marks=pytest.mark.slow)]
)
def test_the_computation_is_that_of_float32(kind):
    half, whole = models(kind)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(parameters(half))} == {"bfloat16"}
    tokens = make_tokens(2, 16)
    state = half.initial_state(2)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {"float32", "int32"}
    results = [jax.jit(lambda tokens, one=one: one(tokens))(tokens) for one in (half, whole)]
    assert_same_numbers(*results)


def test_files_keep_the_type(tmp_path):
    half, _ = models("dual")
    save_model(tmp_path / "whole", half)
    save_model(tmp_path / "half", half, "bfloat16")
    assert (tmp_path / "half").stat().st_size < 0.6 * (tmp_path / "whole").stat().st_size
    for name in "whole", "half":
        again, _ = load_model(tmp_path / name)
        assert again.config.param_dtype == "bfloat16"
        jax.tree.map(np.testing.assert_array_equal, parameters(again), parameters(half))


def test_a_saved_state_knows_its_parameters(tmp_path):
    half, _ = models("dual")
    generator = Generator(half)
    save_state(tmp_path / "state.npz", generator.start(), generator)
    assert load_state(tmp_path / "state.npz", generator).length == 1
    generator.params = jax.tree.map(lambda leaf: leaf + 1, generator.params)
    with pytest.raises(UserError, match="from the same architecture with other parameters"):
        load_state(tmp_path / "state.npz", generator)
