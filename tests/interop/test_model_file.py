"""A model survives the round trip through a safetensors file."""

import dataclasses
import inspect
import json
import math
import pickle
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from block_recurrent import BlockRecurrentTransformer, UserError, load_model, save_model
from block_recurrent.generate import PRETRAINED
from tiny import TINY

TOKENS = jnp.arange(2 * 16).reshape(2, 16) % 7


@pytest.fixture(scope="module")
def model():
    return BlockRecurrentTransformer(TINY, rngs=nnx.Rngs(0))


@pytest.fixture
def file(model, tmp_path):
    save_model(path := tmp_path / "model.safetensors", model, vocabulary="bytes")
    return path


def logits(model):
    return model(TOKENS, model.initial_state(2))[0]


def test_the_same_model_comes_back(model, file):
    again, about = load_model(file)
    assert about == {"vocabulary": "bytes"}
    assert again.config == model.config
    np.testing.assert_array_equal(logits(again), logits(model))


def test_another_program_finds_the_parameters(model, file):
    arrays = load_file(file)
    np.testing.assert_array_equal(arrays["embedding"], model.embedding[...])
    np.testing.assert_array_equal(
        arrays["layers.0.ffn.hidden.kernel"], model.layers[0].ffn.hidden.kernel[...]
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_the_size(model, file, dtype):
    save_model(small := file.with_name("small"), model, dtype)
    assert small.stat().st_size < 0.6 * file.stat().st_size
    again, _ = load_model(small)
    assert again.embedding.dtype == jnp.float32
    want = model.embedding[...].astype(dtype).astype(jnp.float32)
    np.testing.assert_array_equal(again.embedding[...], want)


@pytest.mark.parametrize(
    "dtype, value, fits, message",
    [
        (
            "float16",
            -7e4,
            "bfloat16",
            "float16 ends at 65504, and final_norm.scale has values up to 70000: choose bfloat16",
        ),
        ("float16", 65520.0, "bfloat16", "float16 ends at 65504, .* 65520: choose bfloat16"),
        ("bfloat16", 3.4e38, "float32", "bfloat16 ends at 3.38953e.38, .* choose float32"),
    ],
)
def test_values_beyond_the_range_are_refused(dtype, value, fits, message, tmp_path):
    model = BlockRecurrentTransformer(TINY, rngs=nnx.Rngs(0))
    scale = model.final_norm.scale
    scale[...] = scale[...].at[3].set(value)
    with pytest.raises(UserError, match=message):
        save_model(tmp_path / "model", model, dtype)
    assert list(tmp_path.iterdir()) == []
    save_model(tmp_path / "model", model, fits)
    again, _ = load_model(tmp_path / "model")
    np.testing.assert_allclose(again.final_norm.scale[3], value, rtol=2**-8)


def test_the_largest_value_of_float16_is_kept(tmp_path):
    model = BlockRecurrentTransformer(TINY, rngs=nnx.Rngs(0))
    scale = model.final_norm.scale
    scale[...] = scale[...].at[0].set(65519.0)  # rounds to 65504
    save_model(tmp_path / "model", model, "float16")
    assert load_model(tmp_path / "model")[0].final_norm.scale[0] == 65504


def test_an_unknown_type_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="dtype = 'int8': choose from 'float32', 'float16'"):
        save_model(tmp_path / "model", model, "int8")


def rewritten(file, change):
    """The file with its arrays and its header changed."""
    arrays, header = load_file(file), {"block_recurrent.ModelConfig": None}
    header["block_recurrent.ModelConfig"] = json.dumps(dataclasses.asdict(TINY))
    change(arrays, header)
    save_file(arrays, file, metadata=header)


def without(name):
    return lambda arrays, header: arrays.pop(name)


def with_one_more(arrays, header):
    arrays["layers.9.extra"] = np.zeros(1, np.float32)


def of_another_shape(arrays, header):
    arrays["embedding"] = arrays["embedding"][:, :-1].copy()


def without_configuration(arrays, header):
    header.clear()
    header["format"] = "pt"


def of_another_version(arrays, header):
    header["block_recurrent.ModelConfig"] = json.dumps({"num_depths": 3, "recurrent_layers": []})


@pytest.mark.parametrize(
    "change, message",
    [
        (without("embedding"), "the weights lack embedding"),
        (
            with_one_more,
            "the weights contain layers.9.extra, which this configuration does not have",
        ),
        (of_another_shape, "embedding has shape"),
        (without_configuration, "has no valid model configuration"),
        (of_another_version, "num_depths"),
    ],
)
def test_files_of_other_models(file, change, message):
    rewritten(file, change)
    with pytest.raises(UserError, match=message) as error:
        load_model(file)
    assert str(file) in str(error.value)


class Boom:
    def __reduce__(self):
        return (pytest.fail, ("a model file has run code",))


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps(Boom()), None])
def test_files_that_are_no_models(file, content):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(UserError, match="cannot read the model"):
        load_model(file)


def test_nothing_half_written(model, tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        save_model(tmp_path / "missing" / "model.safetensors", model)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="cannot read the model"):
        load_model(tmp_path / "model.safetensors")


def test_the_model_that_comes_along_has_learnt_python():
    model, about = load_model(PRETRAINED)
    assert about == {"vocabulary": "bytes", "segment_length": "256", "step": "4000"}
    text = np.frombuffer(inspect.getsource(textwrap).encode()[:4096], np.uint8).astype(int) + 3
    inputs = jnp.asarray(np.concatenate([[0], text[:-1]])[None])
    logits, _ = jax.jit(lambda tokens: model(tokens, model.initial_state(1)))(inputs)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[0]), text[:, None], axis=1)
    assert float(-chosen.mean()) / math.log(2) < 2.2  # bits per byte; gzip needs 3.4
