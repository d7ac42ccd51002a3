"""Steps that are not finite: what they leave, what is told, and how a run goes on after them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from block_recurrent import UserError
from block_recurrent.data.lanes import Lanes
from block_recurrent.model.losses import summed_loss
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.loss_spikes import LossSpikes
from block_recurrent.training.train_step import finite_rows
from block_recurrent.training.workdir import record_config
from block_recurrent.types import LayerState
from corpus import tiny_run
from runs import SharingTrainer, assert_same_end, final_arrays, metrics, stop_in_step
from tiny import make_tokens, variant_model


class PoisonedLanes(Lanes):
    """The losses of some batches weigh NaN, wherever in a run they are read.

    Attributes:
      poisoned: the batches' numbers, from 1.
    """

    poisoned: frozenset[int]

    def number(self, position) -> int:
        """Of the batch at a position."""
        if not hasattr(self, "numbers"):
            self.numbers, one = {}, self.initial_position()
            for number in range(1, 40):
                self.numbers[key(one)] = number
                one = super().read(one)[1]
        return self.numbers[key(position)]

    def read(self, position, rows=slice(None)):
        batch, after = super().read(position, rows)
        if self.number(position) in self.poisoned:
            batch.weights[0, 0] = np.nan
        return batch, after


def key(position) -> bytes:
    return position.document.tobytes() + position.offset.tobytes() + position.taken.tobytes()


def poisoned(*numbers, base=SharingTrainer):
    """A trainer whose batches of these numbers are not finite."""

    class PoisonedTrainer(base):
        def __init__(self, config, workdir):
            super().__init__(config, workdir)
            self.lanes.__class__, self.lanes.poisoned = PoisonedLanes, frozenset(numbers)

    return PoisonedTrainer


def with_policy(corpus, policy, **train):
    return tiny_run(corpus, on_nonfinite=policy, **train)


def state_after(workdir, config, step):
    """The `TrainState` of one checkpoint."""
    trainer = SharingTrainer(config, workdir)
    with Checkpoints(workdir) as checkpoints:
        for newer in checkpoints.steps:
            if newer > step:
                checkpoints.manager.delete(newer)
        return jax.device_get(
            checkpoints.restore(trainer.abstract, trainer.lanes.initial_position())
        )


def test_a_skipped_step_leaves_all_as_it_was(corpus, tmp_path, capsys):
    config = with_policy(corpus, "skip", num_steps=5, checkpoint_every_steps=1)
    assert poisoned(5)(config, tmp_path).run()
    after, at_end = state_after(tmp_path, config, 5)
    before, position = state_after(tmp_path, config, 4)
    assert (before.step, after.step, before.nonfinite, after.nonfinite) == (4, 5, 0, 1)
    for name in ("params", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    assert after.finite.tolist() == [False, True, True, True], "row 0 is the poisoned one"
    assert (at_end.offset > position.offset).all(), "its batch is behind it"
    path = tmp_path / "nonfinite" / "step_5.npz"
    told = capsys.readouterr().out
    assert f"step 5: loss nan, gradient norm nan; its batch is in {path}. Left out\n" in told
    with np.load(path) as saved:
        assert np.isnan(saved["weights"][0, 0]) and np.isnan(saved["loss"])
        assert saved["inputs"].shape == (4, 32) and saved["step"] == 5
        np.testing.assert_array_equal(saved["document"], position.document)


def test_a_row_that_was_not_finite_begins_anew(corpus, tmp_path):
    """As at a document's start, whatever it has carried."""
    trainer = SharingTrainer(with_policy(corpus, "skip"), tmp_path)
    step = trainer.compile_step()
    batch, position = trainer.lanes.read(trainer.lanes.initial_position())
    before = jax.device_get(step(trainer.init(), trainer.layout.put(batch))[0])
    batch, _ = trainer.lanes.read(position)
    assert not batch.starts[0, 0], "or there would be nothing to begin anew"

    def spoil(leaf):
        return np.concatenate([np.full_like(leaf[:1], np.nan), leaf[1:]])

    spoilt = before._replace(
        model=jax.tree.map(spoil, before.model), finite=np.array([False, True, True, True])
    )
    found = jax.device_get(step(jax.device_put(spoilt), trainer.layout.put(batch)))
    batch.starts[0, 0] = True
    wanted = jax.device_get(step(jax.device_put(before), trainer.layout.put(batch)))
    assert np.isfinite(wanted[1].loss)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_skipped_step_does_not_touch_the_metrics_of_the_others(corpus, tmp_path):
    config = with_policy(corpus, "skip")
    assert poisoned(7)(config, tmp_path).run()
    assert [line["nonfinite_steps"] for line in metrics(tmp_path) if line["split"] == "train"] == [
        0, 1, 0
    ]  # fmt: skip
    assert all(line["loss"] > 0 for line in metrics(tmp_path))


def test_a_line_of_nothing_but_such_steps_has_no_loss(corpus, tmp_path):
    assert poisoned(1, 2, 3, 4, 5)(with_policy(corpus, "skip", num_steps=6), tmp_path).run()
    first, second, _ = metrics(tmp_path)
    assert (first["nonfinite_steps"], first["loss"], first["gradient_norm"]) == (5, None, None)
    assert (second["nonfinite_steps"], second["loss_over_median"]) == (0, 1.0)


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
@pytest.mark.parametrize("stop", [pytest.param(5, marks=pytest.mark.slow), 7])
def test_stopped_around_the_step_and_resumed_equals_undisturbed(policy, stop, corpus, tmp_path):
    config = with_policy(corpus, policy)
    bad = 6, 7, 9
    assert poisoned(*bad)(config, tmp_path / "calm").run()
    assert not poisoned(*bad, base=stop_in_step(stop))(config, tmp_path / "stopped").run()
    assert poisoned(*bad)(config, tmp_path / "stopped").run()
    assert_same_end(tmp_path / "stopped", tmp_path / "calm", config)


def test_roll_back_goes_on_from_the_checkpoint_after_the_batch(corpus, tmp_path, capsys):
    config = with_policy(corpus, "roll_back")
    assert poisoned(7)(config, tmp_path / "run").run()
    assert "Back to the newest checkpoint, and on after this batch" in capsys.readouterr().out
    assert (tmp_path / "run" / "nonfinite" / "step_7.npz").exists()

    class Jumping(SharingTrainer):
        """Goes from the checkpoint of step 4 to batch 8, never having seen a NaN."""

        def start(self, checkpoints):
            state, position = super().start(checkpoints)
            if state.step == 4:
                for _ in range(5, 8):
                    position = self.lanes.read(position)[1]
            return state, position

    by_hand = with_policy(corpus, "roll_back", num_steps=4)
    assert SharingTrainer(by_hand, tmp_path / "by_hand").run()
    assert Jumping(config, tmp_path / "by_hand").run()
    for a, b in zip(
        final_arrays(tmp_path / "run", config),
        final_arrays(tmp_path / "by_hand", config),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_roll_back_before_the_first_checkpoint_begins_anew(corpus, tmp_path):
    config = with_policy(corpus, "roll_back", num_steps=4)
    assert poisoned(2)(config, tmp_path).run()
    lines = metrics(tmp_path)
    assert lines[-1]["step"] == 4 and all(line["loss"] > 0 for line in lines)


def test_roll_back_gives_up_at_one_checkpoint(corpus, tmp_path):
    config = with_policy(corpus, "roll_back", max_nonfinite_steps=2)
    with pytest.raises(UserError, match="Stopped after 2 returns to one checkpoint"):
        poisoned(2, 4)(config, tmp_path).run()
    config = with_policy(corpus, "roll_back", max_nonfinite_steps=2)
    assert poisoned(2, 9)(config, tmp_path / "apart").run()


def test_stop_says_why_and_saves_nothing_more(corpus, tmp_path):
    config = with_policy(corpus, "stop")
    with pytest.raises(UserError) as error:
        poisoned(6)(config, tmp_path).run()
    message = str(error.value)
    assert message.startswith("step 6: loss nan, gradient norm nan; its batch is in ")
    assert "lower optimizer.learning_rate or set optimizer.clip_norm" in message
    assert "\n" not in message
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == [4]
    # The mend that the message names.
    assert poisoned(6)(with_policy(corpus, "skip"), tmp_path).run()


@pytest.mark.parametrize("eval_every_steps", [1, 6])
def test_many_in_a_row_stop_at_the_same_step_whenever_it_is_looked(
    eval_every_steps, corpus, tmp_path
):
    config = with_policy(corpus, "skip", max_nonfinite_steps=3, eval_every_steps=eval_every_steps)
    with pytest.raises(UserError, match=r"step 8: .* Stopped after 3 steps in a row"):
        poisoned(3, 4, 6, 7, 8)(config, tmp_path).run()


@pytest.mark.slow
def test_a_learning_rate_that_is_too_high(corpus, tmp_path):
    """No hook at all: the numbers go wrong by themselves, and so no step may count after it."""
    config = with_policy(corpus, "skip", num_steps=30, max_nonfinite_steps=4)
    optimizer = dataclasses.replace(
        config.optimizer, learning_rate=1e30, schedule="constant", warmup_steps=0
    )
    with pytest.raises(UserError, match="Stopped after 4 steps in a row"):
        SharingTrainer(dataclasses.replace(config, optimizer=optimizer), tmp_path).run()


def test_batches_saved_are_bounded(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("block_recurrent.training.nonfinite.KEPT", 2)
    config = with_policy(corpus, "skip")
    assert poisoned(3, 5, 9)(config, tmp_path).run()
    assert sorted(p.name for p in (tmp_path / "nonfinite").iterdir()) == [
        "step_3.npz",
        "step_5.npz",
    ]
    assert "its batch is not saved" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_rows_are_judged_by_loss_and_recurrent_state(wrong):
    nats, recurrent = jnp.ones(4).at[1].set(wrong), jnp.ones((4, 3, 2)).at[2, 1, 0].set(wrong)
    state = LayerState(None, None), LayerState(None, recurrent)
    assert finite_rows(jnp.ones(4), state[:1]).tolist() == [True] * 4
    assert finite_rows(nats, state).tolist() == [True, False, False, True]


def test_caches_that_are_not_finite_are_in_the_loss():
    """So nobody needs to look at them: where a key or value is not finite, the loss is not."""
    model = variant_model("fixed_skip")
    tokens = make_tokens(1, 16)
    for layer in range(3):
        for field in ("keys", "values"):
            state = list(model.initial_state(1))
            cache = state[layer].cache
            bad = getattr(cache, field).at[0, 1, -1, 3].set(jnp.inf)
            state[layer] = state[layer]._replace(cache=cache._replace(**{field: bad}))
            features, _ = model.features(tokens, tuple(state))
            assert not np.isfinite(summed_loss(model, features, tokens, jnp.ones((1, 16))))


def test_the_policy_may_change_in_a_run(corpus, tmp_path):
    record_config(tmp_path, with_policy(corpus, "skip"))
    record_config(tmp_path, with_policy(corpus, "roll_back", max_nonfinite_steps=3))


# Spikes


def spikes_of(path, losses, every=1):
    path.write_text("")
    spikes = LossSpikes(path, every)
    return [spikes.compare(step * every, loss) for step, loss in enumerate(losses, 1)]


def test_a_spike_is_told_from_a_falling_loss(tmp_path):
    falling = [5.0, 4.0, 3.0, 2.5, 2.2, 2.0]
    found = spikes_of(tmp_path / "metrics.jsonl", [*falling, 6.0, 2.0])
    assert [spike for _, spike in found] == [False] * 6 + [True, False]
    assert found[0][0] == 1.0 and found[6][0] == 6.0 / 2.75


def test_too_few_lines_and_lines_without_a_loss_are_no_spike(tmp_path):
    found = spikes_of(tmp_path / "metrics.jsonl", [2.0, 9.0, float("nan"), 2.0, 2.0, 2.0, 2.0])
    assert not any(spike for _, spike in found)


def test_spikes_are_the_same_when_a_run_is_resumed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    losses = np.random.default_rng(0).uniform(1, 4, 30).tolist()
    want = spikes_of(path, losses, every=5)
    lines = [{"step": 5 * i, "split": "train", "loss": x} for i, x in enumerate(losses[:24], 1)]
    lines.insert(3, {"step": 17, "split": "train", "loss": 99.0})  # of a run that ended there
    lines.insert(9, {"step": 45, "split": "held_out", "loss": 99.0})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    spikes = LossSpikes(path, 5)
    assert [spikes.compare(5 * i, x) for i, x in enumerate(losses[24:], 25)] == want[24:]
