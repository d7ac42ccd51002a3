"""Tests of the fused kernels: equality with plain attention on a CPU, lowering for GPU and TPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from block_recurrent import KV, ModelConfig, SlidingWindowAttention, UserError
from block_recurrent.ops import attention
from block_recurrent.ops.attention import choose_kernel
from block_recurrent.ops.kernels.default_tiles import choose_bands, choose_rectangles
from block_recurrent.ops.kernels.window_attention import (
    unmasked_attention,
    window_attention,
)
from kernels import (
    TILES,
    assert_rounded,
    assert_same,
    fused,
    make_inputs,
    make_unmasked,
    plain_attention,
    plain_unmasked_attention,
    rectangle,
    unmasked_with_gradients,
    with_gradients,
)
from tiny import VARIANTS, assert_same_numbers, make_model, make_tokens, split

# Blocks, batch, heads, W, K; tiles (queries, keys) of each kernel.
SHAPES = {
    "one tile": ((3, 2, 2, 8, 16), (8, 8), (8, 8), (8, 8)),
    "odd sizes": ((2, 1, 3, 12, 6), (6, 3), (4, 2), (12, 2)),
    "one block": ((1, 2, 1, 16, 16), (8, 4), (4, 4), (16, 8)),
    "W 64": ((2, 2, 2, 64, 64), (32, 16), (16, 16), (32, 8)),
    "W 128": ((2, 1, 1, 128, 128), (64, 32), (32, 32), (32, 32)),
}


@pytest.mark.parametrize(
    "shape, platform",
    [
        *(pytest.param(name, "gpu", marks=pytest.mark.long) for name in ("one tile", "W 64")),
        pytest.param("one block", "gpu", marks=pytest.mark.long),
        *((name, "gpu") for name in ("odd sizes", "W 128")),
        ("odd sizes", "tpu"),
        pytest.param("W 128", "tpu", marks=pytest.mark.long),
    ],
)
def test_output_and_gradients_equal_plain_attention(shape, platform):
    sizes, *tiles = SHAPES[shape]
    assert_same(fused(platform, *tiles), make_inputs(*sizes))


@pytest.mark.parametrize(
    "absent, platform",
    [
        pytest.param("starts", "tpu", marks=pytest.mark.long),
        pytest.param("bias", "gpu", marks=pytest.mark.long),
        ("dropout", "gpu"),
        ("all", "tpu"),
    ],
)
def test_optional_inputs(absent, platform):
    inputs = list(make_inputs(2, 2, 2, 16, 16))
    for index, name in enumerate(("starts", "bias", "dropout"), start=4):
        if absent in (name, "all"):
            inputs[index] = None
    assert_same(fused(platform, *TILES), tuple(inputs))


@pytest.mark.parametrize(
    "platform, reach",
    [
        ("gpu", 16),
        pytest.param("tpu", 16, marks=pytest.mark.long),
        *(pytest.param("gpu", reach, marks=pytest.mark.long) for reach in (1, 40)),
    ],
)
def test_far_distances_share_a_bias(platform, reach):
    """The GPU kernels skip tiles of these distances in the gradient of the bias."""
    *vectors, starts, bias, dropout = make_inputs(2, 2, 2, 64, 16)

    def spelled_out(*inputs):
        *vectors, starts, bias, dropout = inputs
        shared = jnp.repeat(bias[:, -1:], 64 - reach, axis=1)
        bias = jnp.concatenate([bias, shared], axis=1)
        return plain_attention(*vectors, starts, bias, dropout)

    inputs = *vectors, starts, bias[:, :reach], dropout
    attention = fused(platform, (16, 8), (16, 8), (16, 8))
    assert_same(attention, inputs, expected=spelled_out)


def test_bfloat16():
    inputs = make_inputs(2, 2, 2, 32, 64, dtype=jnp.bfloat16)
    assert_same(fused("gpu", (16, 8), (16, 16), (32, 16)), inputs)


def test_unused_gradient_of_the_carried_block_is_not_computed():
    """In a model, no gradient flows into the state. Interpreted kernels show as while loops."""
    queries, scale, tokens, carried, *rest = make_inputs(2, 2, 2, 8, 16)

    def loops(*argnums):
        def loss(queries, tokens, carried):
            return jnp.sum(fused("gpu", *TILES)(queries, scale, tokens, carried, *rest))

        gradient = jax.jit(jax.grad(loss, argnums))
        return gradient.lower(queries, tokens, carried).compile().as_text().count(" while(")

    assert loops(0, 1) < loops(0, 1, 2)


def test_large_logits_do_not_overflow():
    sizes, *tiles = SHAPES["odd sizes"]
    queries, scale, *rest = make_inputs(*sizes)
    assert_same(fused("gpu", *tiles), (queries, scale * 100, *rest), logits=100)


@pytest.mark.parametrize("window", [64, 512])
def test_only_the_columns_of_the_strip_are_computed(window):
    for band in choose_bands(window, jnp.bfloat16, "gpu"):
        columns = band.num_strip_tiles * band.tiles.keys
        assert columns == window + band.tiles.queries
        assert window % band.tiles.queries == 0 == band.tiles.queries % band.tiles.keys


# Without band and bias


# Blocks, batch, heads, queries and keys of a block, K; tiles (queries, keys) of each kernel.
RECTANGLES = {
    "states to states": ((1, 2, 2, 16, 16, 16), (8, 8), (16, 8), (8, 16)),
    "odd sizes": ((1, 2, 3, 12, 10, 6), (6, 5), (4, 2), (3, 10)),
    "tokens to states": ((3, 2, 2, 16, 24, 32), (8, 12), (16, 24), (8, 8)),
    "more keys in a tile": ((2, 1, 1, 32, 64, 64), (16, 32), (16, 64), (16, 32)),
}


@pytest.mark.parametrize(
    "shape, platform, dtype",
    [
        ("states to states", "gpu", "float32"),
        ("odd sizes", "gpu", "float32"),
        ("tokens to states", "gpu", "bfloat16"),
        ("more keys in a tile", "gpu", "float32"),
        ("tokens to states", "tpu", "float32"),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [
                ("states to states", "gpu", "bfloat16"),
                ("odd sizes", "gpu", "bfloat16"),
                ("tokens to states", "gpu", "float32"),
                ("more keys in a tile", "gpu", "bfloat16"),
                ("tokens to states", "tpu", "bfloat16"),
            ]
        ),
    ],
)
def test_unmasked_attention(shape, platform, dtype):
    sizes, *tiles = RECTANGLES[shape]
    inputs = make_unmasked(*sizes, dtype=dtype)
    _, _, _, queries, keys, _ = sizes
    attention = rectangle(platform, queries, keys, *tiles)
    d_out = jnp.asarray(np.random.default_rng(9).standard_normal(inputs[0].shape), dtype)
    run = jax.jit(unmasked_with_gradients, static_argnums=0)
    found, expected = run(attention, inputs, d_out), run(plain_unmasked_attention, inputs, d_out)
    assert_rounded(found, expected, inputs[2].keys)


def test_a_scan_does_not_store_the_keys_and_values_that_it_reads_again():
    def read(x, blocks):
        def step(x, block):
            return x + attention.unmasked_attention(x, *block, scale=jnp.ones(2)), None

        return jax.lax.scan(step, x, blocks)[0]

    blocks = KV(*jnp.ones((2, 3, 1, 2, 32, 16)))
    _, pull = jax.vjp(read, jnp.ones((1, 2, 16, 16)), blocks)
    stored = jax.tree.leaves(pull)
    assert all(any(x is leaf for leaf in stored) for x in blocks)
    assert sum(leaf.size >= blocks.keys.size for leaf in stored) == 2


@pytest.mark.parametrize("size, platform", [(64, "gpu"), (128, "gpu"), (128, "tpu")])
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
def test_unmasked_attention_lowers_for_gpu_and_tpu(dtype, size, platform):
    for blocks, queries, keys in ((1, 512, 512), (1, 512, 1024), (2, 512, 512)):
        sizes = (blocks, 2, 8, queries, keys, size)
        abstract = jax.eval_shape(lambda: make_unmasked(*sizes, dtype=dtype))  # noqa: B023
        tilings = choose_rectangles(queries, keys, dtype, platform)

        def function(inputs, d_out):
            def attention(*inputs):
                return unmasked_attention(*inputs, tilings)  # noqa: B023

            return unmasked_with_gradients(attention, inputs, d_out)

        text = lower(function, (abstract, abstract[0]), platform)
        assert text.count("tpu_custom_call" if platform == "tpu" else "triton") >= 3
        assert not re.search(rf"<(\d+x){{2,}}{queries}x{keys}x", text)


# The devices to lower for; they do not have to be present.
DEVICES = {"gpu": ("cuda", "NVIDIA H100"), "tpu": ("tpu", "TPU v5e")}


@pytest.mark.parametrize("size, platform", [(64, "gpu"), (128, "gpu"), (128, "tpu")])
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", ["t5 with dropout", "rope"])
def test_window_attention_lowers_for_gpu_and_tpu(variant, dtype, size, platform):
    """At the sizes of the paper."""
    sizes = (2, 2, 8, 512, size)
    abstract = jax.eval_shape(lambda: make_abstract(sizes, dtype, variant))
    bands = choose_bands(512, dtype, platform)

    def function(inputs, d_out):
        def attention(*inputs):
            return window_attention(*inputs, bands)

        return with_gradients(attention, inputs, d_out)

    text = lower(function, abstract, platform)
    kernels = 3 + (platform == "gpu" and variant != "rope")
    assert text.count("tpu_custom_call" if platform == "tpu" else "triton") >= kernels
    assert not re.search(r"<(\d+x){2,}512x1024x", text)  # nowhere are there weights of W × 2W
    assert not re.search(rf"transpose.*<2x1024x8x{size}x", text)  # no heads are moved


def lower(function, inputs, platform: str) -> str:
    """The lowered program for a platform, as text."""
    name, kind = DEVICES[platform]
    device = AbstractDevice(device_kind=kind, num_cores=1, platform=platform)
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        return jax.jit(function).trace(*inputs).lower(lowering_platforms=(name,)).as_text()


def make_abstract(sizes, dtype, variant):
    blocks, batch, heads, window, size = sizes
    shape, block = (batch, blocks * window, heads, size), (batch, window, heads, size)
    tokens = KV(*(jnp.zeros(shape, dtype) for _ in range(2)))
    carried = KV(*(jnp.zeros(block, dtype) for _ in range(2)))
    bias = None if variant == "rope" else jnp.zeros((heads, window))
    dropout = jnp.zeros((heads, window, 2 * window), dtype) if "dropout" in variant else None
    inputs = (
        tokens.keys,
        jnp.zeros(heads),
        tokens,
        carried,
        jnp.zeros((batch, blocks), bool),
        bias,
        dropout,
    )
    return inputs, tokens.keys


LIKE_RECORDED = "feedback", "fixed_skip", "lstm_dual"


@pytest.mark.slow  # test_golden.py always runs fixed_skip with the kernels, and slowly the others
@pytest.mark.parametrize(
    "variant",
    [
        "modern",
        *(pytest.param(name, marks=pytest.mark.long) for name in LIKE_RECORDED),
    ],
)
def test_a_model_gives_the_same_results_with_either_kernel(variant):
    tokens, starts = make_tokens(2, 24), jnp.array([[True, False, True], [False, False, False]])

    def logits_and_gradient(kernel):
        fields = dict(num_layers=1, recurrent_layers=(0,), dropout_rate=0.3)
        model = make_model(**VARIANTS[variant], **fields, attention_kernel=kernel)
        graphdef, params = split(model)

        def loss(params):
            model = nnx.merge(graphdef, params)
            state = model.initial_state(2)
            logits, _ = model(tokens, state, starts, dropout_key=jax.random.key(0))
            return jnp.square(logits).mean(), logits

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    assert_same_numbers(logits_and_gradient("pallas"), logits_and_gradient("xla"))


def test_a_layer_gives_the_same_results_with_either_kernel():
    """Over two segments, with a negative scale. The cache has unit keys."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 16, 12)), jnp.float32)
    starts = jnp.array([[False, True], [False, False]])

    def results(kernel):
        layer = SlidingWindowAttention(12, 2, 8, 8, kernel=kernel, rngs=nnx.Rngs(0))
        graphdef, params = split(layer)
        params["scale"] = jnp.array([-2.0, 3.0])

        def loss(params, x):
            layer = nnx.merge(graphdef, params)
            first, cache = layer(x[0], layer.initial_cache(2), starts)
            second, cache = layer(x[1], cache)
            return jnp.square(first).mean() + jnp.square(second).mean(), (first, second, cache)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    found, expected = results("pallas"), results("xla")
    assert_same_numbers(found, expected)
    cache = found[0][1][2]
    np.testing.assert_allclose(jnp.square(cache.keys).sum(axis=-1), 1, rtol=1e-3)


SHARDED = """
import json, sys
sys.path.insert(0, {tests!r})
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from kernels import TILES, assert_rounded, fused, make_inputs, make_unmasked, rectangle, run
from kernels import unmasked_with_gradients

inputs = make_inputs(2, 4, 2, 16, 16)
d_out = inputs[0] * 2
attention = fused("gpu", *TILES)
alone = run(attention, inputs, d_out)
mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
put = lambda spec: lambda x: jax.device_put(x, NamedSharding(mesh, spec))
queries, scale, tokens, carried, starts, bias, dropout = inputs
rows = (queries, tokens, carried, d_out)
queries, tokens, carried, d_out = jax.tree.map(put(P("data", None, "tensor")), rows)
starts = put(P("data"))(starts)
split = (queries, scale, tokens, carried, starts, bias, dropout)
compiled = run.lower(attention, split, d_out).compile()
shared = compiled(split, d_out)
assert_rounded(shared, alone, tokens.keys)
gathers, spec = "all-gather" in compiled.as_text(), str(shared[0].sharding.spec)

inputs = make_unmasked(2, 4, 2, 16, 24, 16)
run = jax.jit(unmasked_with_gradients, static_argnums=0)
attention = rectangle("gpu", 16, 24, (8, 8), (16, 8), (8, 24))
alone = run(attention, inputs, inputs[0])
queries = put(P("data", None, "tensor"))(inputs[0])
split = (queries, inputs[1], jax.tree.map(put(P(None, "data", None, "tensor")), inputs[2]))
compiled = run.lower(attention, split, queries).compile()
assert_rounded(compiled(split, queries), alone, inputs[2].keys)
gathers |= "all-gather" in compiled.as_text()
print(json.dumps([gathers, spec]))
"""


@pytest.mark.slow
def test_batch_and_heads_are_split_over_devices():
    """Each device computes its part, and nothing is gathered."""
    tests = Path(__file__).parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests.parent), os.environ.get("PYTHONPATH", "")]),
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
    }
    script = SHARDED.format(tests=str(tests))
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    gathers, spec = json.loads(result.stdout)
    assert not gathers
    assert "data" in spec and "tensor" in spec


def test_auto_chooses_the_kernels_where_they_are_supported():
    def choose(wanted, window, size, *machine, num_states=0, **more):
        lengths = {"window_length": window, "num_states": num_states}
        return choose_kernel(wanted, lengths, size, "bfloat16", *machine, **more)

    assert choose("auto", 512, 128, "cpu") == "xla"
    assert choose("auto", 512, 128, "gpu") == "pallas"
    assert choose("auto", 512, 96, "gpu") == "xla"
    assert choose("auto", 512, 128, "tpu") == "xla", "the kernels have not been run on a TPU"
    assert choose("pallas", 512, 128, "tpu", num_devices=1) == "pallas"
    assert choose("auto", 512, 128, "gpu", "7.5") == "xla"
    assert choose("xla", 512, 128, "gpu") == "xla"
    assert choose("auto", 512, 128, "gpu", num_states=100) == "xla"
    assert choose("pallas", 7, 5, "cpu") == "pallas"


@pytest.mark.parametrize("dtype, kernel", [("bfloat16", "pallas"), ("float32", "xla")])
def test_auto_chooses_by_dtype_on_a_gpu(dtype, kernel, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sizes = {"window_length": 512, "num_states": 512}
    assert ModelConfig().attention_kernel == "auto"
    assert choose_kernel("auto", sizes, 128, dtype) == kernel
    assert choose_kernel("pallas", sizes, 128, dtype) == "pallas"


@pytest.mark.parametrize(
    "window, size, platform, message",
    [
        (500, 128, "gpu", "window_length that is a multiple of 16, not 500"),
        (512, 96, "gpu", "head_size of 16, 32, 64 or 128, not 96"),
        (192, 128, "tpu", "window_length that is a multiple of 128, not 192"),
        (512, 64, "tpu", "head_size that is a multiple of 128, not 64"),
        (512, 128, "gpu", "num_states that is a multiple of 16, not 100"),
    ],
)
def test_unsupported_sizes_are_refused(window, size, platform, message):
    num_states = 100 if "states" in message else 512
    with pytest.raises(UserError, match=message):
        choose_kernel(
            "pallas",
            {"window_length": window, "num_states": num_states},
            size,
            "bfloat16",
            platform,
        )


def test_full_attention_has_no_fused_kernel():
    with pytest.raises(UserError, match="attention_kernel = 'pallas' needs attention = 'sliding'"):
        ModelConfig(recurrent_layers=(), attention="full", attention_kernel="pallas")
