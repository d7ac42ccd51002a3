"""Every shipped gin file at every scale builds and runs, as shapes; its number of parameters."""

import functools
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from block_recurrent import ModelConfig
from block_recurrent.config.gin_files import shipped_gin_files
from block_recurrent.config.run_config import RunConfig, load
from block_recurrent.model import transformer

VARIANTS = [name for name in shipped_gin_files() if name.count("/") == 1]
SCALES = [name for name in shipped_gin_files() if name.startswith("gin/scale/")]
PAPER = [name for name in shipped_gin_files() if name.startswith(("gin/table1/", "gin/ablations/"))]
CORPORA = [f"gin/data/{name}.gin" for name in ("pg19_bytes", "arxiv", "github")]

VOCABULARY = 32_128  # the paper's, of T5
EMBEDDING = VOCABULARY * 1024
TWELVE_LAYERS = 151_023_712  # all of the paper's 12 layers and the last norm
LAYER = 12_585_224
FIXED_SKIP = 9_439_256  # what the recurrence adds
LSTM_DUAL = 30_414_872


abstract_model = functools.cache(transformer.abstract_model)


def num_parameters(config: ModelConfig) -> int:
    """Number of parameters of the model."""
    _, params = abstract_model(config)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def counted_parameters(c: ModelConfig) -> int:
    """Number of parameters that the model should have."""
    if c.layer == "lstm":  # two kernels and a bias, for four gates, and a norm
        lstm = 8 * c.embedding_size**2 + 5 * c.embedding_size
        return (c.vocab_size + 1) * c.embedding_size + c.num_layers * lstm
    layers = c.num_layers * layer(c)
    readers = c.num_layers if c.feedback else len(c.recurrent_indices)
    cells = len(c.recurrent_indices) * cell(c)
    embeddings = (c.vocab_size + 3 * c.ngram_rows) * c.embedding_size
    final_norm = c.embedding_size
    return embeddings + layers + readers * reading_states(c) + cells + final_norm


def layer(c: ModelConfig) -> int:
    """A layer on tokens: queries, keys, values and output, scale and T5 bias, FFN, two norms."""
    width = c.num_heads * c.head_size
    attention = 4 * c.embedding_size * width + c.num_heads * (1 + 32 * (c.positions == "t5"))
    hidden = 3 * max(8, c.mlp_dim // 12 * 8) if c.gated_ffn else 2 * c.mlp_dim
    return attention + c.embedding_size * hidden + 2 * c.embedding_size


def reading_states(c: ModelConfig) -> int:
    """What reading states adds to a layer: their queries, scale, and half of the output kernel."""
    return 2 * c.embedding_size * c.num_heads * c.head_size + c.num_heads


def cell(c: ModelConfig) -> int:
    """A recurrent cell: the horizontal direction."""
    d, width = c.embedding_size, c.num_heads * c.head_size
    states = 2 * c.num_states * d  # the initial ones, and their positions
    attention = 4 * d * width + 2 * c.num_heads + 2 * width * d
    attention += d + gate(c, 2 * width)  # the norm before it, and the gate after it
    ffn = 2 * d * c.mlp_dim + d + gate(c, c.mlp_dim)
    if c.configuration == "single":  # the FFN in place of the projection, without a norm
        attention -= 2 * width * d + gate(c, 2 * width)
        ffn += (2 * width - d) * c.mlp_dim - d
    return states + attention + (0 if c.configuration == "skip" else ffn)


def gate(c: ModelConfig, inputs: int) -> int:
    """A bias, or linear layers with one."""
    linear = (inputs + 1) * c.embedding_size
    selective = c.embedding_size + inputs  # a bias, and a linear layer with one output and no bias
    by_name = {"fixed": c.embedding_size, "gru": linear, "lstm": 2 * linear, "selective": selective}
    return by_name[c.gate]


def forward_shapes(config: RunConfig, batch_size: int):
    """The state before a segment, its logits, and the state after it."""
    graphdef, params = abstract_model(config.model)

    def forward(params):
        model = nnx.merge(graphdef, params)
        before = model.initial_state(batch_size)
        tokens = jnp.zeros((batch_size, config.train.segment_length), jnp.int32)
        return before, *model(tokens, before)

    return jax.eval_shape(forward, params)


def test_there_are_variants_and_scales():
    assert len(VARIANTS) >= 6 and len(SCALES) >= 5


DEEPER = ("gin/scale/paper_13l.gin", "gin/scale/paper_24l.gin")  # than paper_12l, and no more
QUICK = "gin/brt_fixed_gate.gin", "gin/scale/mini.gin"  # at every scale, and every variant there


@pytest.mark.parametrize(
    "variant, scale",
    [
        pytest.param(
            *pair,
            marks=[pytest.mark.long] * (pair[1] in DEEPER or not set(pair) & set(QUICK)),
        )
        for pair in itertools.product(VARIANTS, SCALES)
    ],
)
def test_every_variant_at_every_scale(variant, scale):
    config = load([variant, scale], [])
    assert num_parameters(config.model) == counted_parameters(config.model)
    before, logits, after = forward_shapes(config, batch_size=2)
    assert logits.shape == (2, config.train.segment_length, config.model.vocab_size)
    assert logits.dtype == jnp.float32
    assert len(before) == config.model.num_layers
    assert jax.tree.leaves(before) == jax.tree.leaves(after), "the state keeps its shapes and types"
    if config.model.layer == "lstm":
        return
    recurrent = [index for index, entry in enumerate(before) if entry.recurrent is not None]
    assert tuple(recurrent) == config.model.recurrent_indices
    for index in recurrent:
        assert before[index].recurrent.shape[1:] == (
            config.model.num_states,
            config.model.embedding_size,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "scale", "expected"),
    [
        ("brt_fixed_gate", "paper_12l", TWELVE_LAYERS + EMBEDDING + FIXED_SKIP),
        ("brt_lstm_gate", "paper_12l", TWELVE_LAYERS + EMBEDDING + LSTM_DUAL),
        ("sliding_window", "paper_12l", 183_922_784),
        ("transformer_xl", "paper_12l", 183_922_784),
        ("full_attention", "paper_12l", 183_922_784),
        ("sliding_window", "paper_13l", 196_508_008),
        ("transformer_xl", "paper_13l", 196_508_008),
        ("brt_fixed_gate", "paper_24l", 1_345_182_176),
        ("sliding_window", "paper_24l", 1_273_870_720),
    ],
)
def test_paper_sizes(variant, scale, expected):
    files = [f"gin/{variant}.gin", f"gin/scale/{scale}.gin"]
    config = load(files, [f"BlockRecurrentTransformer.vocab_size = {VOCABULARY}"]).model
    assert num_parameters(config) == counted_parameters(config) == expected


BRIEF = "rec_fixed_skip", "rec_lstm_dual", "feedback_lstm_single", "xl_2048", "slide_13l"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (Path(name).stem not in BRIEF))
        for name in PAPER
    ],
)
def test_experiments_of_the_paper(name):
    config = load([name], [])
    assert num_parameters(config.model) == counted_parameters(config.model)
    _, logits, _ = forward_shapes(config, batch_size=1)
    assert logits.shape == (1, config.train.segment_length, VOCABULARY)
    assert config.train.batch_size * config.train.segment_length == 32 * 4096
    assert config.optimizer.name == "adafactor" and config.train.num_steps == 500_000
    assert config.data.stores == ("stores/pg19_tokens",)
    for corpus in CORPORA:
        other = load([name, corpus], [])
        assert other.data.stores == (f"stores/{corpus.removeprefix('gin/data/')[:-4]}",)
        assert other.train == config.train


def test_each_experiment_is_another():
    configs = [load([name], []) for name in PAPER]
    assert len(PAPER) == len(set(map(repr, configs))) == 21


def test_paper_sizes_add_up():
    assert TWELVE_LAYERS == 12 * LAYER + 1024
    assert TWELVE_LAYERS + EMBEDDING == 183_922_784
    assert TWELVE_LAYERS + EMBEDDING + FIXED_SKIP == 193_362_040
    assert TWELVE_LAYERS + EMBEDDING + LSTM_DUAL == 214_337_656
    assert TWELVE_LAYERS + EMBEDDING + LAYER == 196_508_008
