"""Options that change between two starts: what is refused, allowed, and recorded."""

import dataclasses
import functools
import re
import shutil

import numpy as np
import pytest

from block_recurrent.config.changes import SAME
from block_recurrent.config.train_options import OptimizerConfig
from block_recurrent.errors import UserError
from block_recurrent.training import config_changes
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.config_changes import check_changes, record_changes
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import read_config, record_config
from corpus import tiny_run

START = " contains a run with another configuration ("
WAYS = (
    ", name another --workdir (train.initial_model can start it from an export of this run), or "
    "add --allow_changes to continue this run with the changes"
)
COSINE = OptimizerConfig(schedule="cosine", learning_rate=0.1, warmup_steps=2)


@pytest.fixture(scope="module", autouse=True)
def shapes_are_found_again():
    """The same configurations are compared in many tests."""
    with pytest.MonkeyPatch.context() as patch:
        cached = functools.cache(config_changes.abstract_state)
        patch.setattr(config_changes, "abstract_state", cached)
        yield


def changed(config, **sections):
    """The configuration with some fields of its sections replaced."""
    parts = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **parts)


@pytest.fixture(scope="module")
def begun(corpus, tmp_path_factory):
    """The folder of a run with a checkpoint of its first state."""
    workdir = tmp_path_factory.mktemp("begun")
    trainer = Trainer(tiny_run(corpus), workdir)
    record_config(workdir, trainer.config)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(*trainer.start(checkpoints))
    return workdir


def refusal(workdir, config, **options) -> str:
    with pytest.raises(UserError) as error:
        check_changes(workdir, config, **options)
    message = str(error.value)
    assert message.startswith(f"{workdir}{START}") and "\n" not in message
    return message.removeprefix(f"{workdir}{START}")


def test_a_new_run_has_no_changes(tmp_path):
    assert check_changes(tmp_path, tiny_run("texts")).options == []


def test_changes_of_the_training_are_refused_with_the_ways_out(begun):
    config = changed(read_config(begun), train={"seed": 1}, model={"dropout_rate": 0.2})
    assert refusal(begun, config) == (
        "BlockRecurrentTransformer.dropout_rate: 0.1 in the workdir, 0.2 now; "
        f"train.seed: 0 in the workdir, 1 now): make the configurations equal{WAYS}"
    )
    assert check_changes(begun, config, allow=True).names() == {
        "BlockRecurrentTransformer.dropout_rate",
        "train.seed",
    }


@pytest.mark.parametrize(
    "sections, array",
    [
        ({"model": {"mlp_dim": 64}}, r"ffn/hidden/kernel has the shape \(32, 48\), not \(32, 64\)"),
        ({"model": {"num_layers": 2}}, "checkpoints do not fit: params/layers/1/att.* is missing"),
        ({"model": {"window_length": 16}}, r"model/0/cache/keys has .* 8, 16\), not .* 16, 16\)"),
        ({"model": {"positions": "rope"}}, "params/layers/0/.*relative_bias/table is not needed"),
        ({"optimizer": {"name": "adamw"}}, "optimizer/0/v_row/.* is not needed"),
        ({"optimizer": {"clip_norm": 1.0}}, "optimizer/0/.* is not needed"),
        ({"train": {"average_decay": 0.9}}, "averaged/embedding is missing"),
        ({"train": {"lanes": 8}}, r"4 keeps the lanes\).* has the shape \(4, .*, not \(8, "),
    ],
)
@pytest.mark.parametrize("allow", [False, True])
def test_changes_of_shape_are_always_refused(sections, array, allow, begun):
    message = refusal(begun, changed(read_config(begun), **sections), allow=allow)
    assert re.search(rf"{array}.*, and [0-9]+ more\)$", message)
    assert "or name another --workdir (its checkpoints do not fit: " in message
    assert "--allow_changes" not in message


def test_a_smaller_batch_keeps_the_lanes_only_if_told_so(begun):
    smaller = changed(read_config(begun), train={"batch_size": 2, "lanes": None})
    assert "make the configurations equal (train.lanes = 4 keeps the lanes)" in refusal(
        begun, smaller, allow=True
    )
    kept = changed(smaller, train={"lanes": 4})
    assert refusal(begun, kept).endswith(WAYS)
    assert check_changes(begun, kept, allow=True).names() == {"train.batch_size"}


def test_hints_that_would_not_help_are_left_out(begun, tmp_path):
    larger = changed(read_config(begun), train={"batch_size": 8, "lanes": None})
    assert "make the configurations equal, or name another --workdir (its" in refusal(begun, larger)
    config = dataclasses.replace(tiny_run("texts"), optimizer=COSINE)
    record_config(tmp_path, config)
    other = changed(config, optimizer={"schedule": "rsqrt", "decay_steps": None})
    assert refusal(tmp_path, other).endswith(f"): make the configurations equal{WAYS}")


def test_what_watches_the_training_may_change(begun):
    """What is saved and kept, when the run ends, and what is profiled."""
    options = {"keep_checkpoints": 9, "keep_best": 2, "keep_every_steps": 4}
    options |= {"best_metric": "accuracy", "patience": 3, "profile_steps": (3, 4)}
    changes = check_changes(begun, changed(read_config(begun), train=options))
    assert changes.names() == {f"train.{name}" for name in options}
    assert {change.effect for change in changes.options} == {SAME}


def test_without_a_checkpoint_every_change_may_be_allowed(tmp_path):
    config = tiny_run("texts")
    record_config(tmp_path, config)
    wider = changed(config, model={"mlp_dim": 64})
    assert refusal(tmp_path, wider).endswith(WAYS)
    changes = check_changes(tmp_path, wider, allow=True)
    record_changes(tmp_path, changes, step=None)
    assert not (tmp_path / "changes.txt").exists(), "nothing was computed without the change"


def test_what_may_change_is_printed_and_recorded(tmp_path, capsys):
    config = tiny_run("texts")
    record_config(tmp_path, config)
    for step, layer in ((20, "layer"), (1300, "attention")):
        now = changed(config, model={"remat": layer}, train={"sample_tokens": step})
        record_changes(tmp_path, check_changes(tmp_path, now), step)
        record_config(tmp_path, now)
        config = now
    lines = [
        "step 20: BlockRecurrentTransformer.remat was 'none', is 'layer': the training stays the "
        "same up to rounding, but not bit for bit",
        "step 20: train.sample_tokens was 0, is 20: the training stays the same, bit for bit",
        "step 1,300: BlockRecurrentTransformer.remat was 'layer', is 'attention': the training "
        "stays the same up to rounding, but not bit for bit",
        "step 1,300: train.sample_tokens was 20, is 1300: the training stays the same, bit for bit",
    ]
    assert (tmp_path / "changes.txt").read_text().splitlines() == lines
    assert capsys.readouterr().out.splitlines() == lines
    assert read_config(tmp_path) == config, "the last configuration, which is complete"
    assert check_changes(tmp_path, config).options == []


def test_a_schedule_may_be_kept_or_extended(tmp_path):
    config = changed(dataclasses.replace(tiny_run("texts"), optimizer=COSINE))
    record_config(tmp_path, config)
    longer = changed(config, train={"num_steps": 24}, optimizer={"decay_steps": 24})
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    assert refusal(tmp_path, longer) == (
        "optimizer.decay_steps: 12 in the workdir, 24 now): make the configurations equal "
        "(optimizer.decay_steps = 12, which is train.num_steps unless it is set, keeps the "
        "schedule: from step 12 on, the learning rate stays at 0.01; otherwise it changes at step "
        f"12 from 0.01 to 0.055){WAYS}"
    )
    assert check_changes(tmp_path, longer, allow=True).lines(12) == [
        "step 12: train.num_steps was 12, is 24: the training stays the same, bit for bit",
        "step 12: optimizer.decay_steps was 12, is 24: the training is another one from here on "
        "(--allow_changes)",
        "step 12: the learning rate was 0.01, is 0.055",
    ]
    kept = changed(config, train={"num_steps": 24})
    assert check_changes(tmp_path, kept).lines(12) == [
        "step 12: train.num_steps was 12, is 24: the training stays the same, bit for bit",
        "step 12: the schedule 'cosine' ends at step 12 (optimizer.decay_steps); from there on, "
        "the learning rate stays at 0.01",
    ]


def test_a_schedule_ends_after_its_warm_up(tmp_path):
    config = dataclasses.replace(tiny_run("texts"), optimizer=COSINE)
    config = changed(config, optimizer={"warmup_steps": 20})
    record_config(tmp_path, config)
    longer = changed(config, train={"num_steps": 15})
    assert len(check_changes(tmp_path, longer).lines(12)) == 1
    longer = changed(config, train={"num_steps": 30})
    _, line = check_changes(tmp_path, longer).lines(12)
    assert "ends at step 21 (optimizer.decay_steps); from there on, the learning rate " in line
    assert line.endswith("stays at 0.01")


def test_a_refused_start_leaves_the_folder_as_it_was(begun, corpus, tmp_path):
    """Because of an option, or because of the documents."""
    shutil.copytree(begun, tmp_path / "run")
    (tmp_path / "texts").mkdir()
    for name in ("0.txt", "1.txt"):
        shutil.copy(corpus / name, tmp_path / "texts")
    config = read_config(begun)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    others = changed(config, data={"path": str(tmp_path / "texts")})
    with pytest.raises(UserError, match="removed: .*; data.path: '.*' in the workdir, '.*' now"):
        Trainer(others, tmp_path / "run").run()
    with pytest.raises(UserError, match="train.seed: 0 in the workdir, 1 now"):
        Trainer(changed(config, train={"seed": 1}), tmp_path / "run").run()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert after.keys() - before.keys() <= {tmp_path / "run" / "lock"}
    assert {path: after[path] for path in before if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


def test_a_larger_batch_has_fewer_turns(corpus, tmp_path):
    """Lanes that took turns in 2 rows take turns in 4, whatever turn it was."""
    trainer = Trainer(tiny_run(corpus, batch_size=2, lanes=8), tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        state, position = trainer.start(checkpoints)
        checkpoints.save(state, position._replace(turn=np.array(3)))
    trainer = Trainer(tiny_run(corpus, batch_size=4, lanes=8), tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        _, position = trainer.start(checkpoints)
    assert position.turn == 1
    batch, after = trainer.setup.lanes.read(position)
    assert batch.turn.tolist() == [1] * 4 and after.turn == 0
