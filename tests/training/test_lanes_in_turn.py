"""Training with more lanes than rows: each lane has its memory, and runs continue bit for bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from block_recurrent import UserError
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.lanes import Lanes
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training import checkpoints
from block_recurrent.training.train_step import (
    init_function,
    make_train_step,
    state_shardings,
)
from block_recurrent.training.turns import in_turns, put_turn, take_turn
from corpus import tiny_run
from runs import SharingTrainer, assert_same_end, stop_in_step
from slow_lanes import Numbered, read_some
from tiny import TINY, assert_same_numbers

ROWS, TURNS, W = 2, 3, TINY.window_length


def test_a_lane_is_taken_and_put_back():
    lanes = {"a": jnp.arange(12.0).reshape(6, 2), "b": jnp.arange(6) > 2}
    taken = take_turn(lanes, jnp.full(ROWS, 1))
    np.testing.assert_array_equal(taken["a"], lanes["a"][jnp.array([1, 4])])
    np.testing.assert_array_equal(taken["b"], lanes["b"][jnp.array([1, 4])])
    put = put_turn(lanes, jnp.full(ROWS, 1), {"a": -taken["a"], "b": ~taken["b"]})
    expected = np.array(lanes["a"])
    expected[[1, 4]] *= -1
    np.testing.assert_array_equal(put["a"], expected)
    assert put["b"].tolist() == [False, True, False, True, False, True]


@pytest.mark.parametrize("recurrent_layers", [(0,), pytest.param((), marks=pytest.mark.slow)])
def test_each_lane_has_the_memory_of_its_own_text(recurrent_layers):
    """With a learning rate of 0, every lane's state is that of reading its text alone."""
    config = dataclasses.replace(TINY, num_layers=1, recurrent_layers=recurrent_layers)
    lanes = Lanes(Numbered([9 * W] * 20), ROWS, 2 * W, W, num_lanes=ROWS * TURNS)
    layout = Layout(make_mesh(MeshConfig(), config, ROWS, jax.devices()[:1]))
    optimizer = optax.sgd(optax.constant_schedule(0.0))
    state = jax.jit(init_function(config, optimizer, ROWS * TURNS, seed=0))()
    graphdef, _ = abstract_model(config)
    step = jax.jit(make_train_step(graphdef, optimizer, 1, layout))
    step = in_turns(step, layout, state_shardings(layout, state))
    batches, _ = read_some(lanes, 3 * TURNS, lanes.staggered_position())
    batches = [
        batch._replace(inputs=batch.inputs % 200, targets=batch.targets % 200) for batch in batches
    ]
    model = nnx.merge(graphdef, state.params)
    alone = [None] * TURNS
    read = jax.jit(lambda tokens, memory, starts: model.features(tokens, memory, starts)[1])
    for batch in batches:
        turn = batch.turn[0]
        alone[turn] = read(batch.inputs, alone[turn], batch.starts)
        state, _ = step(state, layout.put(batch))
    for turn in range(TURNS):
        own = take_turn(state.model, jnp.full(ROWS, turn))
        assert_same_numbers(own, alone[turn])
    assert state.finite.all()


@pytest.fixture(scope="module")
def config(corpus):
    return tiny_run(corpus, lanes=12)


@pytest.mark.slow
def test_k_steps_a_stop_and_the_rest_equal_an_undisturbed_run(config, tmp_path):
    assert SharingTrainer(config, tmp_path / "undisturbed").run()
    assert not stop_in_step(5)(config, tmp_path / "stopped").run()
    assert SharingTrainer(config, tmp_path / "stopped").run()
    assert_same_end(tmp_path / "stopped", tmp_path / "undisturbed", config)


@pytest.mark.slow
def test_a_checkpoint_of_before_lanes_took_turns_continues(corpus, tmp_path, monkeypatch):
    config = tiny_run(corpus)
    assert SharingTrainer(config, tmp_path / "undisturbed").run()
    item = checkpoints.training_item

    def without_turn(state, position):
        saved = item(state, position)
        del saved["position"]["turn"]
        return saved

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "training_item", without_turn)
        assert not stop_in_step(5)(config, tmp_path / "stopped").run()
    assert SharingTrainer(config, tmp_path / "stopped").run()
    assert_same_end(tmp_path / "stopped", tmp_path / "undisturbed", config)


def test_lanes_are_a_multiple_of_the_rows():
    message = "train.lanes = 20 is not a multiple of train.batch_size = 8: set train.lanes = 24"
    with pytest.raises(UserError, match=message):
        TrainConfig(batch_size=8, lanes=20)
