"""Steps that are not finite: what they change, what is reported, and how a run continues."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from block_recurrent import UserError
from block_recurrent.data.lanes import LanePosition, Lanes
from block_recurrent.model.losses import summed_loss
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.config_changes import check_changes
from block_recurrent.training.nonfinite import mark_moved_rows
from block_recurrent.training.train_step import TrainState, finite_rows
from block_recurrent.training.workdir import record_config
from block_recurrent.types import LayerState
from corpus import tiny_run
from runs import SharingTrainer, assert_same_end, final_arrays, metrics, stop_in_step
from tiny import make_tokens, variant_model


class ChangedLanes(Lanes):
    """Lanes that change some batches whenever they are read.

    Attributes:
      numbers: numbers of the changed batches, from 1.
      change: changes a batch.
    """

    numbers: frozenset[int]
    change: staticmethod

    def number(self, position) -> int:
        """The number of the batch at a position."""
        if not hasattr(self, "number_at"):
            self.number_at, one = {}, self.initial_position()
            for number in range(1, 40):
                self.number_at[key(one)] = number
                one = super().read(one)[1]
        return self.number_at[key(position)]

    def read(self, position, rows=slice(None)):
        batch, after = super().read(position, rows)
        if self.number(position) in self.numbers:
            self.change(batch)
        return batch, after


def key(position) -> bytes:
    return position.document.tobytes() + position.offset.tobytes() + position.taken.tobytes()


def changed(change, *numbers, base=SharingTrainer):
    """A trainer class whose batches with these numbers are changed."""

    class ChangedTrainer(base):
        def __init__(self, config, workdir):
            super().__init__(config, workdir)
            lanes = self.setup.lanes
            lanes.__class__, lanes.change, lanes.numbers = ChangedLanes, change, frozenset(numbers)

    return ChangedTrainer


def poison(batch):
    batch.weights[0, 0] = np.nan


def restart(batch):
    batch.starts[:, 0] = True


def poisoned(*numbers, base=SharingTrainer):
    """A trainer class whose batches with these numbers are not finite in row 0."""
    return changed(poison, *numbers, base=base)


def with_policy(corpus, policy, **train):
    return tiny_run(corpus, on_nonfinite=policy, **train)


def state_after(workdir, config, step):
    """The `TrainState` of one checkpoint."""
    setup = SharingTrainer(config, workdir).setup
    with Checkpoints(workdir) as checkpoints:
        for newer in checkpoints.steps:
            if newer > step:
                checkpoints.manager.delete(newer)
        return jax.device_get(checkpoints.restore(setup.abstract, setup.lanes.initial_position()))


def test_a_skipped_step_changes_nothing(corpus, tmp_path, capsys):
    config = with_policy(corpus, "skip", num_steps=5)  # checkpoints after 4 and 5
    assert poisoned(5)(config, tmp_path).run()
    after, at_end = state_after(tmp_path, config, 5)
    before, position = state_after(tmp_path, config, 4)
    assert (before.step, after.step, before.nonfinite, after.nonfinite) == (4, 5, 0, 1)
    for name in ("params", "optimizer"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    assert after.finite.tolist() == [False, True, True, True], "row 0 is the poisoned one"
    assert (at_end.offset > position.offset).all(), "reading continues after its batch"
    path = tmp_path / "nonfinite" / "step_5.npz"
    line = f"step 5: loss nan, gradient norm nan; its batch is in {path}. The step is skipped\n"
    assert line in capsys.readouterr().out
    with np.load(path) as saved:
        assert np.isnan(saved["weights"][0, 0]) and np.isnan(saved["loss"])
        assert saved["inputs"].shape == (4, 32) and saved["step"] == 5
        np.testing.assert_array_equal(saved["document"], position.document)


def test_a_row_that_was_not_finite_restarts(corpus, tmp_path):
    """It restarts as at the start of a document, for any state."""
    setup = SharingTrainer(with_policy(corpus, "skip"), tmp_path).setup
    step = setup.compile_step()
    batch, position = setup.lanes.read(setup.lanes.initial_position())
    before = jax.device_get(step(setup.init(), setup.layout.put(batch))[0])
    batch, _ = setup.lanes.read(position)
    assert not batch.starts[0, 0], "else the row starts a document anyway"

    def spoil(leaf):
        return np.concatenate([np.full_like(leaf[:1], np.nan), leaf[1:]])

    spoilt = before._replace(
        model=jax.tree.map(spoil, before.model), finite=np.array([False, True, True, True])
    )
    found = jax.device_get(step(jax.device_put(spoilt), setup.layout.put(batch)))
    batch.starts[0, 0] = True
    wanted = jax.device_get(step(jax.device_put(before), setup.layout.put(batch)))
    assert np.isfinite(wanted[1].loss)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_skipped_step_does_not_touch_the_metrics_of_the_others(corpus, tmp_path):
    config = with_policy(corpus, "skip", checkpoint_every_steps=12)
    assert poisoned(7)(config, tmp_path).run()
    assert [line["nonfinite_steps"] for line in metrics(tmp_path) if line["split"] == "train"] == [
        0, 1, 0
    ]  # fmt: skip
    assert all(line["loss"] > 0 for line in metrics(tmp_path))


def test_a_line_without_a_finite_step_has_no_loss(corpus, tmp_path):
    assert poisoned(1, 2, 3, 4, 5)(with_policy(corpus, "skip", num_steps=6), tmp_path).run()
    first, second, _ = metrics(tmp_path)
    assert (first["nonfinite_steps"], first["loss"], first["gradient_norm"]) == (5, None, None)
    assert first["learning_rate"] is None, "no update has used one"
    assert (second["nonfinite_steps"], second["loss_over_median"]) == (0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["muon", *(pytest.param(name, marks=pytest.mark.long) for name in ("adafactor", "adamw"))],
)
def test_the_learning_rate_is_that_of_the_last_update(name, corpus, tmp_path):
    """Skipped steps are not updates, so they do not advance the schedule."""
    config = with_policy(corpus, "skip", num_steps=6, log_every_steps=1, eval_every_steps=6)
    optimizer = dataclasses.replace(
        config.optimizer, name=name, learning_rate=0.01, warmup_steps=10, weight_decay=0.1
    )
    config = dataclasses.replace(config, optimizer=optimizer)
    assert poisoned(2, 3, 5)(config, tmp_path).run()
    rates = [line["learning_rate"] for line in metrics(tmp_path) if line["split"] == "train"]
    assert rates == pytest.approx([0.001, 0.001, 0.001, 0.002, 0.002, 0.003], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy, stop",
    [
        ("roll_back", 5),
        *(
            pytest.param(*case, marks=pytest.mark.long)
            for case in [("skip", 5), ("skip", 7), ("roll_back", 7)]
        ),
    ],
)
def test_stopped_around_the_step_and_resumed_equals_undisturbed(policy, stop, corpus, tmp_path):
    config = with_policy(corpus, policy, keep_best=1)
    bad = 6, 7, 9
    assert poisoned(*bad)(config, tmp_path / "calm").run()
    assert not poisoned(*bad, base=stop_in_step(stop))(config, tmp_path / "stopped").run()
    assert poisoned(*bad)(config, tmp_path / "stopped").run()
    assert_same_end(tmp_path / "stopped", tmp_path / "calm", config)


def test_roll_back_continues_from_the_checkpoint_after_the_batch(corpus, tmp_path, capsys):
    config = with_policy(corpus, "roll_back")
    assert poisoned(7)(config, tmp_path / "run").run()
    assert (
        "Returning to the newest checkpoint; training continues after this batch"
        in capsys.readouterr().out
    )
    assert (tmp_path / "run" / "nonfinite" / "step_7.npz").exists()

    class JumpingTrainer(changed(restart, 8)):
        """Continues from the checkpoint of step 4 with batch 8, where all rows restart."""

        def start(self, checkpoints):
            state, position = super().start(checkpoints)
            if state.step == 4:
                for _ in range(5, 8):
                    position = self.setup.lanes.read(position)[1]
                batch, _ = Lanes.read(self.setup.lanes, position)
                assert not batch.starts[:, 0].all(), "else restarting makes no difference"
            return state, position

    first = with_policy(corpus, "roll_back", num_steps=4)
    assert SharingTrainer(first, tmp_path / "expected").run()
    assert JumpingTrainer(config, tmp_path / "expected").run()
    for a, b in zip(
        final_arrays(tmp_path / "run", config),
        final_arrays(tmp_path / "expected", config),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_only_moved_rows_restart():
    """A row restarts if its document or its offset differs from those of its memory."""

    def position(document, offset):
        return LanePosition(0, 0, 0, 0, np.array(document), np.array(offset), 0)

    saved = position([3, 3, -1, 5, 7], [8, 8, 0, 16, 8])
    there = position([3, 4, -1, 5, 7], [8, 8, 0, 24, 8])
    state = TrainState(*[None] * len(TrainState._fields))
    state = state._replace(finite=jnp.array([True, True, True, True, False]))
    assert mark_moved_rows(there, state, saved).finite.tolist() == [True, False, True, False, False]
    assert mark_moved_rows(saved, state, saved).finite.tolist() == [True, True, True, True, False]


@pytest.mark.slow
def test_roll_back_before_the_first_checkpoint_goes_to_the_beginning(corpus, tmp_path):
    config = with_policy(corpus, "roll_back", num_steps=4)
    assert poisoned(2)(config, tmp_path).run()
    lines = metrics(tmp_path)
    assert lines[-1]["step"] == 4 and all(line["loss"] > 0 for line in lines)


@pytest.mark.slow
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
    assert "lower optimizer.learning_rate and add --allow_changes, set optimizer.clip_n" in message
    assert "\n" not in message
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps == [4]
    # The fix that the message names.
    assert poisoned(6)(with_policy(corpus, "skip"), tmp_path).run()


@pytest.mark.parametrize("eval_every_steps", [1, 6])
def test_many_in_a_row_stop_at_the_same_step_whenever_the_host_checks(
    eval_every_steps, corpus, tmp_path
):
    steps = {"eval_every_steps": eval_every_steps, "checkpoint_every_steps": 12}
    config = with_policy(corpus, "skip", max_nonfinite_steps=3, **steps)
    with pytest.raises(UserError, match=r"step 8: .* Stopped after 3 steps in a row"):
        poisoned(3, 4, 6, 7, 8)(config, tmp_path).run()


@pytest.mark.slow
def test_a_learning_rate_that_is_too_high(corpus, tmp_path):
    """No batch is changed: the numbers overflow, also in all later steps."""
    config = with_policy(corpus, "skip", num_steps=30, max_nonfinite_steps=4)
    optimizer = dataclasses.replace(
        config.optimizer, learning_rate=1e30, schedule="constant", warmup_steps=0
    )
    with pytest.raises(UserError, match="Stopped after 4 steps in a row"):
        SharingTrainer(dataclasses.replace(config, optimizer=optimizer), tmp_path).run()


def test_saved_batches_are_limited(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("block_recurrent.training.nonfinite.MAX_SAVED_BATCHES", 2)
    config = with_policy(corpus, "skip", checkpoint_every_steps=12)
    assert poisoned(3, 5, 9)(config, tmp_path).run()
    assert sorted(p.name for p in (tmp_path / "nonfinite").iterdir()) == [
        "step_3.npz",
        "step_5.npz",
    ]
    assert "its batch is not saved" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_rows_are_checked_by_loss_and_recurrent_state(wrong):
    nats, recurrent = jnp.ones(4).at[1].set(wrong), jnp.ones((4, 3, 2)).at[2, 1, 0].set(wrong)
    state = LayerState(None, None), LayerState(None, recurrent)
    assert finite_rows(jnp.ones(4), state[:1]).tolist() == [True] * 4
    assert finite_rows(nats, state).tolist() == [True, False, False, True]


def test_caches_that_are_not_finite_show_in_the_loss():
    """If a key or value is not finite, neither is the loss. So caches need no check."""
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


def test_the_policy_may_change_when_a_run_is_continued(corpus, tmp_path):
    record_config(tmp_path, with_policy(corpus, "skip"))
    config = with_policy(corpus, "roll_back", max_nonfinite_steps=3)
    assert check_changes(tmp_path, config).names() == {
        "train.on_nonfinite",
        "train.max_nonfinite_steps",
    }
