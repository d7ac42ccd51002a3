"""The LSTM baseline: equality with Flax's cell, and the behaviour that all models share."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from block_recurrent import ModelConfig
from block_recurrent.errors import UserError
from block_recurrent.generation.generator import Generator
from block_recurrent.training.trainer import Trainer
from corpus import tiny_run, write_corpus
from tiny import TINY, assert_same_numbers, forward, make_model, make_tokens

LSTM = {"layer": "lstm", "recurrent_layers": ()}
W = TINY.window_length


def token_by_token_logits(model, tokens, starts):
    """Yields the logits of one row, token by token; `starts` are the starts of documents."""

    @jax.jit
    def step(carries, token):
        x, after = model.embedding[...][token][None], []
        for carry, layer in zip(carries, model.layers, strict=True):
            carry, y = layer.cell(carry, layer.norm(x))
            x, after = x + y, [*after, carry]
        return after, model.readout(model.final_norm(x))[0]

    for place, token in enumerate(tokens):
        if place in starts:
            carries = [(jnp.zeros((1, 32)),) * 2 for _ in model.layers]
        carries, logits = step(carries, token)
        yield logits


@pytest.fixture(scope="module")
def model():
    return make_model(**LSTM)


def test_equals_flaxs_cell_and_restarts_at_documents(model):
    tokens = make_tokens(2, 4 * W)
    starts = jnp.array([[True, False, False, False], [True, False, True, False]])
    logits, state = forward(model, tokens, model.initial_state(2), starts)
    for row, places in enumerate(((0,), (0, 2 * W))):
        expected = jnp.stack(list(token_by_token_logits(model, tokens[row], places)))
        assert_same_numbers(logits[row], expected)
    assert [layer.recurrent.shape for layer in state] == [(2, 2, 32)] * 3
    assert all(layer.cache is None for layer in state)


def test_segments_with_carried_state_equal_one_pass(model):
    tokens = make_tokens(2, 4 * W)
    whole, end = forward(model, tokens, model.initial_state(2))
    state, parts = model.initial_state(2), []
    for segment in jnp.split(tokens, 4, axis=1):
        logits, state = forward(model, segment, state)
        parts.append(logits)
    assert_same_numbers((jnp.concatenate(parts, axis=1), state), (whole, end))


def test_in_bfloat16_the_state_stays_in_float32():
    model = make_model(**LSTM, dtype="bfloat16")
    logits, state = forward(model, make_tokens(1, W), model.initial_state(1))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    assert model.features(make_tokens(1, W), state)[0].dtype == jnp.bfloat16


def test_dropout_needs_a_key(model):
    model = make_model(**LSTM, dropout_rate=0.5)
    tokens, state = make_tokens(1, W), model.initial_state(1)
    plain, _ = forward(model, tokens, state)
    dropped, _ = forward(model, tokens, state, dropout_key=jax.random.key(0))
    assert jnp.abs(plain - dropped).max() > 0.1


@pytest.mark.slow
def test_a_run_learns_and_reports_memory_worth(tmp_path):
    config = tiny_run(write_corpus(tmp_path / "texts"), num_steps=30, eval_every_steps=15)
    model = dataclasses.replace(config.model, **LSTM)
    trainer = Trainer(dataclasses.replace(config, model=model), tmp_path / "run")
    before = trainer.evaluation.evaluator(trainer.setup.init().params).metrics()["loss"]
    assert trainer.evaluation.probe is not None and trainer.run()
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert '"memory_worth": ' in text
    assert json.loads(text.splitlines()[-1])["loss"] < before - 0.5


def test_unsupported_uses_are_refused():
    with pytest.raises(UserError, match=r"layer = 'lstm' has no recurrent cells: set recurrent_l"):
        ModelConfig(layer="lstm")
    with pytest.raises(
        UserError, match="an LSTM can be trained and evaluated, but cannot generate"
    ):
        Generator(make_model(**LSTM))
