"""Profiles of a few steps: their files are read again, and contain the steps and the scopes."""

import gzip
import json
import re

import jax
import pytest

from block_recurrent import UserError
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.files.written_folders import RUN_FILES
from corpus import tiny_run
from runs import SharingTrainer, assert_same_end, stop_in_step

SCOPES = {"embedding", "attention", "recurrence", "ffn", "loss", "optimizer"}


def profiled_run(corpus, *steps, **train):
    lengths = {"num_steps": 6, "eval_every_steps": 6}
    return tiny_run(corpus, **lengths | train, profile_steps=steps)


def traces(workdir):
    """The events of each trace that Perfetto opens."""
    for path in sorted(workdir.glob("profile/plugins/profile/*/*.trace.json.gz")):
        yield json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]


def steps(events):
    """The numbers of the steps in a trace."""
    return [int(event["args"]["step_num"]) for event in events if event.get("name") == "train"]


@pytest.fixture(scope="module")
def profiled(corpus, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("profiled")
    assert SharingTrainer(profiled_run(corpus, 3, 4), workdir).run()
    return workdir


def test_the_trace_has_these_steps_and_what_the_device_computed_in_them(profiled):
    [events] = traces(profiled)
    assert steps(events) == [3, 4]
    operations = [event for event in events if "hlo_op" in event.get("args", {})]
    runs = {
        event["args"]["run_id"] for event in operations if "step" in event["args"]["hlo_module"]
    }
    assert len(runs) == 2, "the step ran twice"
    assert all(event["dur"] > 0 for event in operations)


def test_the_scopes_of_the_model_are_in_the_trace_for_tensorboard(profiled):
    [path] = profiled.glob("profile/plugins/profile/*/*.xplane.pb")
    planes = {plane.name for plane in jax.profiler.ProfileData.from_file(str(path)).planes}
    assert {"/host:CPU", "/host:metadata"} <= planes
    names = re.findall(rb"jit\(train_step\)/[\w()/.-]+", path.read_bytes())
    found = {scope for name in names for scope in re.split(r"[/()]+", name.decode())}
    assert found >= SCOPES


def test_the_memory_profile_is_one(profiled):
    """The format of pprof: a gzipped message, whose table of strings names the values."""
    content = gzip.decompress((profiled / "profile" / "memory.prof").read_bytes())
    assert b"allocations" in content and b"space" in content and b"bytes" in content


def test_all_files_of_a_run_are_known(profiled):
    """So they are no text to train on, if the run is in the folder of its corpus."""
    assert {path.name for path in profiled.iterdir()} <= set(RUN_FILES)


def test_a_profile_changes_nothing_in_the_run(corpus, profiled, tmp_path):
    assert SharingTrainer(profiled_run(corpus), tmp_path).run()
    assert not (tmp_path / "profile").exists()
    assert_same_end(tmp_path, profiled, profiled_run(corpus))


@pytest.mark.slow
def test_a_run_that_stops_in_between_writes_what_it_has(corpus, tmp_path, capsys):
    config = profiled_run(corpus, 2, 5)
    assert not stop_in_step(3)(config, tmp_path).run()
    assert [steps(events) for events in traces(tmp_path)] == [[2, 3]]
    folder = tmp_path / "profile"
    line = f"steps 2 to 3 are profiled in {folder}: open its *.trace.json.gz at ui.perfetto.dev"
    assert line in capsys.readouterr().out
    # It continues after the first of the steps, so there is no second profile.
    assert SharingTrainer(config, tmp_path).run()
    assert len(list(traces(tmp_path))) == 1 and "profiled" not in capsys.readouterr().out


def test_an_evaluation_ends_the_profile(corpus, tmp_path):
    config = profiled_run(corpus, 2, 5, eval_every_steps=3)
    assert SharingTrainer(config, tmp_path).run()
    assert [steps(events) for events in traces(tmp_path)] == [[2, 3]]


@pytest.mark.parametrize(
    "steps, message",
    [
        ((5,), "must be two numbers of steps: write (first, last), such as (100, 105), or () for"),
        ((5, 4), "the first step comes after the last one: write (first, last)"),
        ((5, 11), "the run ends after step 10 (train.num_steps)"),
        ((0, 4), "must be at least 1"),
        (5, "must be a tuple"),
        ((1.5, 2), "must be an integer"),
    ],
)
def test_steps_that_cannot_be_profiled_are_refused(steps, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        TrainConfig(num_steps=10, profile_steps=steps)
    assert "profile_steps = " in str(error.value)
