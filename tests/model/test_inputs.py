"""What the public modules say about inputs that do not fit: one sentence with both shapes."""

import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from block_recurrent import (
    KV,
    BlockRecurrentTransformer,
    FullAttention,
    Generator,
    ModelConfig,
    RecurrentCell,
    SlidingWindowAttention,
    UserError,
    save_model,
    scan_blocks,
)
from block_recurrent.interop.meliad import OTHER_NAMES, SAME_NAMES, model_from_meliad
from tiny import TINY, variant_model

W = TINY.window_length
TOKENS = np.ones((2, 2 * W), np.int32)
STARTS = np.zeros((2, 2), bool)
RNGS = nnx.Rngs(0)
MELIAD = dict.fromkeys([*SAME_NAMES, *OTHER_NAMES], 1)


@pytest.fixture(scope="module", autouse=True)
def unchecked(shape_checks):
    """As for users, who do not check annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@functools.cache
def state_of(name: str, batch: int = 2):
    return variant_model(name).initial_state(batch)


@functools.cache
def attention(**options) -> SlidingWindowAttention:
    return SlidingWindowAttention(32, 2, 16, W, rngs=RNGS, **options)


@functools.cache
def cell() -> RecurrentCell:
    return RecurrentCell(32, 6, 2, 16, 48, rngs=RNGS)


def keys_values(*shape: int) -> KV:
    return KV(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def refused(call, message: str):
    """Asserts that a call ends with one line that begins so, also while it is traced."""
    for run in (call, lambda: jax.eval_shape(call)):
        with pytest.raises(UserError, match="^" + re.escape(message)) as caught:
            run()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            (TOKENS[:, :-3],),
            "13 tokens are not a multiple of the window, 8: cut or pad them to 8",
        ),
        ((TOKENS[:, :5],), "5 tokens are not a multiple of the window, 8: cut or pad them to 8"),
        ((TOKENS[:, :0],), "0 tokens are not a multiple of the window, 8: cut or pad them to 8"),
        ((TOKENS[0],), "tokens has shape [16], but should have [B, T]"),
        ((TOKENS[..., None],), "tokens has shape [2, 16, 1], but should have [B, T]"),
        ((np.int32(3),), "tokens has shape [], but should have [B, T]"),
        ((TOKENS.tolist(),), "tokens is of type list: pass an array of shape [B, T]"),
        (("text",), "tokens is of type str: pass an array of shape [B, T]"),
        ((None,), "tokens is None: pass an array"),
        (
            (SimpleNamespace(shape=(2, W), dtype="torch.int64"),),
            "tokens is of type SimpleNamespace: pass an array of NumPy or JAX",
        ),
        ((TOKENS * 1.0,), "tokens are of type float64: pass integers, such as int32"),
        ((TOKENS > 0,), "tokens are of type bool: pass integers"),
        ((TOKENS, None, STARTS[:1]), "starts has shape [1, 2], but should have [2, 2]"),
        ((TOKENS, None, STARTS[0]), "starts has shape [2], but should have [2, 2]"),
        ((TOKENS, None, TOKENS > 0), "starts has shape [2, 16], but should have [2, 2]"),
        ((TOKENS, None, STARTS * 1), "starts are of type int64: pass bools, True where a block"),
        ((TOKENS, None, True), "starts is of type bool: pass an array of shape [2, 2]"),
    ],
)
def test_tokens_and_starts(arguments, message):
    refused(lambda: variant_model("fixed_skip")(*arguments), message)


@pytest.mark.parametrize("token", [260, 70_000, -1])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_a_token_that_is_not_in_the_vocabulary(token, make):
    tokens = TOKENS.copy()
    tokens[1, 3] = token
    message = f"tokens contain {token}: the tokens of this model are 0 to 259 (vocab_size = 260)"
    with pytest.raises(UserError, match=re.escape(message)):
        variant_model("fixed_skip")(make(tokens))


def test_values_that_are_not_known_are_not_checked():
    model = variant_model("fixed_skip")
    logits, _ = jax.eval_shape(model, jax.ShapeDtypeStruct((2, W), jnp.uint16))
    assert logits.shape == (2, W, 260)


@pytest.mark.parametrize(
    "model, state, message",
    [
        (
            "fixed_skip",
            lambda: state_of("fixed_skip", 3),
            "state[0].cache.keys has shape [3, 2",
        ),
        ("fixed_skip", lambda: state_of("sliding_window"), "state[1].recurrent is None: pass an"),
        ("sliding_window", lambda: state_of("fixed_skip"), "state[1].recurrent is not None: this"),
        ("fixed_skip", lambda: state_of("full_attention"), "state[0].cache is None: pass a KV"),
        (
            "fixed_skip",
            lambda: state_of("fixed_skip")[:2],
            "state is 2 layers, but the model",
        ),
        (
            "fixed_skip",
            lambda: list(state_of("fixed_skip")),
            "state is of type list, but the",
        ),
        ("fixed_skip", lambda: state_of("fixed_skip")[0], "state is 2 layers, but the model"),
        ("fixed_skip", lambda: TOKENS, "state is of type ndarray, but the model has 3 layers"),
        ("modern", lambda: state_of("fixed_skip"), "state[0].tokens is None: pass an array of sha"),
        ("feedback", lambda: state_of("fixed_skip", 1), "state[0].cache.keys has shape [1, 2, 8, "),
        ("two_recurrent_layers", lambda: state_of("fixed_skip"), "state[0].recurrent is None"),
    ],
)
def test_a_state_of_another_batch_or_model(model, state, message):
    refused(lambda: variant_model(model)(TOKENS, state()), message)


def test_a_state_of_another_batch_names_both_shapes():
    refused(
        lambda: variant_model("fixed_skip")(TOKENS, state_of("fixed_skip", 4)),
        "state[0].cache.keys has shape [4, 2, 8, 16], but should have [2, 2, 8, 16]",
    )


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "2", None, True])
def test_a_batch_size(batch_size):
    for module in variant_model("fixed_skip"), cell():
        refused(lambda module=module: module.initial_state(batch_size), "batch_size = ")
    refused(lambda: attention().initial_cache(batch_size), f"batch_size = {batch_size!r}: must be ")


@pytest.mark.parametrize("key", [0, np.zeros(2, np.float32), jax.random.split(jax.random.key(0))])
def test_a_dropout_key(key):
    message = "dropout_key is not one random key: pass jax.random.key(seed)"
    model = variant_model("fixed_skip")
    refused(lambda: model(TOKENS, dropout_key=key), message)
    x = np.zeros((2, W, 32), np.float32)
    refused(lambda: attention()(x, attention().initial_cache(2), dropout_key=key), message)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": np.zeros((2, 12, 32))}, "12 tokens are not a multiple of the window, 8"),
        ({"x": np.zeros((2, 16, 31))}, "x has shape [2, 16, 31], but should have [B, T, 32]"),
        ({"x": np.zeros((16, 32))}, "x has shape [16, 32], but should have [B, T, 32]"),
        ({"cache": keys_values(3, 2, 8, 16)}, "cache.keys has shape [3, 2, 8, 16], but should hav"),
        ({"cache": keys_values(2, 2, 9, 16)}, "cache.keys has shape [2, 2, 9, 16], but should hav"),
        ({"cache": None}, "cache is None: pass a KV of keys and values"),
        ({"cache": np.zeros((2, 2, 8, 16))}, "cache is of type ndarray: pass a KV"),
        ({"starts": np.zeros((2, 3), bool)}, "starts has shape [2, 3], but should have [2, 2]"),
        ({"starts": np.zeros((2, 2))}, "starts are of type float64: pass bools"),
        ({"states": keys_values(2, 2, 2, 6, 16)}, "states are given, but not read: create it wit"),
    ],
)
def test_sliding_window_attention(arguments, message):
    right = {"x": np.zeros((2, 16, 32)), "cache": keys_values(2, 2, 8, 16)}
    refused(lambda: attention()(**right | arguments), message)


@pytest.mark.parametrize(
    "states, message",
    [
        (None, "states is None: pass a KV of keys and values"),
        (keys_values(1, 2, 2, 6, 16), "states.keys has shape [1, 2, 2, 6, 16], but should have [2"),
        (keys_values(2, 2, 2, 6, 15), "states.keys has shape [2, 2, 2, 6, 15], but should have [2"),
        (
            keys_values(2, 2, 2, 6, 16)._replace(values=np.zeros((2, 2, 2, 5, 16))),
            "states.values has shape [2, 2, 2, 5, 16], but should have [2, 2, 2, 6, 16]",
        ),
    ],
)
def test_states_to_read(states, message):
    reader, x = attention(read_states=True), np.zeros((2, 16, 32))
    refused(lambda: reader(x, keys_values(2, 2, 8, 16), states=states), message)


def test_full_attention():
    full = FullAttention(32, 2, 16, W, rngs=RNGS)
    x = np.zeros((2, 16, 32))
    refused(lambda: full(x[:, :9], None), "9 tokens are not a multiple of the window, 8")
    refused(lambda: full(x, None, STARTS[:, :1]), "starts has shape [2, 1], but should have [2, 2]")
    states = keys_values(2, 2, 2, 6, 16)
    refused(lambda: full(x, None, states=states), "full attention reads no states")


@pytest.mark.parametrize(
    "state, tokens, message",
    [
        ((2, 6, 31), (2, 2, 16, 16), "state has shape [2, 6, 31], but should have [B, 6, 32]"),
        ((2, 5, 32), (2, 2, 16, 16), "state has shape [2, 5, 32], but should have [B, 6, 32]"),
        ((6, 32), (2, 2, 16, 16), "state has shape [6, 32], but should have [B, 6, 32]"),
        ((2, 6, 32), (3, 2, 16, 16), "tokens.keys has shape [3, 2, 16, 16], but should have [2, 2"),
        ((2, 6, 32), (2, 2, 16, 8), "tokens.keys has shape [2, 2, 16, 8], but should have [2, 2,"),
    ],
)
def test_recurrent_cell(state, tokens, message):
    refused(lambda: cell()(np.zeros(state), keys_values(*tokens)), message)


@pytest.mark.parametrize(
    "state, tokens, starts, message",
    [
        ((2, 5, 32), (2, 2, 2, 16, 16), None, "state has shape [2, 5, 32], but should have [B, 6"),
        ((2, 6, 32), (2, 2, 16, 16), None, "tokens.keys has shape [2, 2, 16, 16], but should have"),
        ((2, 6, 32), (3, 2, 2, 16, 16), STARTS, "starts has shape [2, 2], but should have [2, 3]"),
        ((2, 6, 32), (2, 2, 2, 16, 16), STARTS * 1, "starts are of type int64: pass bools"),
    ],
)
def test_scan_blocks(state, tokens, starts, message):
    refused(lambda: scan_blocks(cell(), np.zeros(state), keys_values(*tokens), starts), message)


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(RecurrentCell, 32, 6, 2, 16, 48, rngs=RNGS),
        functools.partial(BlockRecurrentTransformer, TINY, rngs=RNGS),
        ModelConfig,
    ],
)
@pytest.mark.parametrize(
    "field, value, hint",
    [
        ("gate", "ltsm", "did you mean 'lstm'?"),
        ("configuration", "dul", "did you mean 'dual'?"),
        ("dtype", "bfloat", "did you mean 'bfloat16'?"),
        ("dtype", jnp.bfloat16, "choose from 'float32', 'bfloat16'"),
        ("gate", None, "choose from 'fixed', 'lstm', 'gru', 'selective'"),
    ],
)
def test_unknown_choices(make, field, value, hint):
    with pytest.raises(UserError, match=f"^{field} = ") as caught:
        make(**{field: value})
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: attention(positions="rop"), "positions = 'rop': choose from 't5', 'rope' (did yo"),
        (lambda: attention(kernel="palas"), "kernel = 'palas': choose from 'xla', 'pallas', 'auto"),
        (lambda: attention(remat="layer"), "remat = 'layer': must be True or False"),
        (lambda: attention(read_states="yes"), "read_states = 'yes': must be True or False"),
        (lambda: attention(dropout_rate=1), "dropout_rate = 1: must be at least 0 and below 1"),
        (
            lambda: attention(window_lenght=8),
            "SlidingWindowAttention has no argument 'window",
        ),
        (lambda: attention(gate="lstm"), "SlidingWindowAttention has no argument 'gate': choose f"),
        (
            lambda: SlidingWindowAttention(32, 2, 15, W, positions="rope", rngs=RNGS),
            "positions = 'rope' needs an even head_size, not 15",
        ),
        (
            lambda: SlidingWindowAttention(32, 0, 16, W, rngs=RNGS),
            "num_heads = 0: must be at least 1",
        ),
        (
            lambda: SlidingWindowAttention(32, 2, 16.0, W, rngs=RNGS),
            "head_size = 16.0: must be an integer: write 16",
        ),
        (lambda: SlidingWindowAttention(32, 2, 16, W, rngs=0), "rngs is of type int: pass nnx.Rn"),
        (
            lambda: RecurrentCell(32, 0, 2, 16, 48, rngs=RNGS),
            "num_states = 0: must be at least 1",
        ),
        (
            lambda: RecurrentCell(32, 6, 2, 16, 48, gates="lstm", rngs=RNGS),
            "RecurrentCell has no argument 'gates': did you mean gate?",
        ),
        (
            lambda: RecurrentCell(32, 6, 2, 16, 48, rngs=jax.random.key(0)),
            "rngs is of type ",
        ),
        (lambda: BlockRecurrentTransformer(TINY, rngs=None), "rngs is None: pass nnx.Rngs(0)"),
        (lambda: BlockRecurrentTransformer(12, rngs=RNGS), "config is of type int: pass a ModelC"),
        (lambda: BlockRecurrentTransformer("a.gin", rngs=RNGS), "config is of type str: pass a M"),
        (
            lambda: BlockRecurrentTransformer(TINY, num_layer=2, rngs=RNGS),
            "ModelConfig has no field 'num_layer': did you mean num_layers?",
        ),
        (
            lambda: BlockRecurrentTransformer({"num_head": 2}, rngs=RNGS),
            "ModelConfig has no field 'num_head': did you mean num_heads?",
        ),
        (
            lambda: BlockRecurrentTransformer(TINY, recurrent_layers=(3,), rngs=RNGS),
            "recurrent_layers names layer 3, but the model has num_layers = 3: choose from -3 to 2",
        ),
        (
            lambda: BlockRecurrentTransformer(TINY, remat="layers", rngs=RNGS),
            "remat = 'layers': choose from 'none', 'attention', 'layer' (did you mean 'layer'?)",
        ),
        (
            lambda: save_model(variant_model("fixed_skip"), "a"),
            "model is of type str: save_model take",
        ),
        (
            lambda: model_from_meliad("{}", {}),
            "config is of type str: pass a mapping, such as json.",
        ),
        (
            lambda: model_from_meliad({"gate": "bias"}, {}),
            "the configuration lacks num_layers, embe",
        ),
        (
            lambda: model_from_meliad(MELIAD | {"gate": "biass"}, {}),
            "gate = 'biass': choose from 'bias', 'lstm', 'full' (did you mean 'bias'?)",
        ),
        (lambda: Generator(None), "model is of type NoneType: pass a BlockRecurrentTransformer"),
        (lambda: Generator(attention()), "model is of type SlidingWindowAttention: pass a Block"),
    ],
)
def test_constructors(make, message):
    with pytest.raises(UserError, match="^" + re.escape(message)):
        make()
