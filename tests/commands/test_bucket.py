"""Runs whose folder is in a bucket, with the real clients and an object server on this machine."""

import os
import subprocess
import sys

import pytest

from block_recurrent import UserError
from block_recurrent.compare import names_of
from block_recurrent.comparison.runs import read_run
from block_recurrent.config.run_config import to_gin
from block_recurrent.files.paths import workdir_path
from block_recurrent.files.writing import COPY_INTERVAL, Mirror
from block_recurrent.reporting.metrics_log import MetricsLog, read_metrics
from block_recurrent.training.config_changes import check_changes, record_changes
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import read_config, record_config
from bucket_server import serve_bucket
from corpus import tiny_run, write_corpus

TIMINGS = {"tokens_per_second", "waiting_for_data"}


@pytest.fixture(scope="module")
def bucket():
    with serve_bucket() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def workdir(bucket, request):
    return workdir_path(f"gs://bucket/{request.node.name}")


def content(bucket, workdir, name) -> str:
    """The current content of an object."""
    return bucket.objects[f"{workdir.name}/{name}"][1].decode()


def test_metrics_are_copied_at_the_first_line_and_at_each_flush(bucket, workdir):
    with MetricsLog(workdir, None) as log:
        log.write(1, "train", {"loss": 2.5})
        assert content(bucket, workdir, "metrics.jsonl").count("\n") == 1
        log.write(2, "train", {"loss": 2.25})
        log.flush()
        assert content(bucket, workdir, "metrics.jsonl").count("\n") == 2
        log.write(3, "train", {"loss": 2.0})
    assert [line["loss"] for line in read_metrics(workdir)] == [2.5, 2.25, 2.0]
    events = [path.name for path in (workdir / "tensorboard").iterdir()]
    assert len(events) == 1 and events[0].endswith(".0")


def test_a_run_is_compared_where_it_lies(workdir, tmp_path):
    config = tiny_run(tmp_path / "texts")
    record_config(workdir, config)
    with MetricsLog(workdir, None) as log:
        log.write(6, "held_out", {"loss": 2.0, "bits_per_byte": 3.0})
    (name,) = names_of([workdir])
    found = read_run(workdir, name)
    assert (found.name, found.step, found.config) == (workdir.name, 6, config)
    assert found.best.bits_per_byte == 3.0
    with pytest.raises(UserError, match="gs://bucket/.* is given 2 times"):
        names_of([workdir, workdir])


def test_metrics_continue_from_the_checkpoint(bucket, workdir):
    for resume_step, steps in (None, [10, 20, 30]), (20, [40]):
        with MetricsLog(workdir, resume_step) as log:
            for step in steps:
                log.write(step, "train", {"loss": 1.0})
    assert [line["step"] for line in read_metrics(workdir)] == [10, 20, 40]
    events = sorted(path.name for path in (workdir / "tensorboard").iterdir())
    assert [name.rpartition(".")[2] for name in events] == ["0", "21"]


def test_copies_only_changed_files_and_not_before_the_interval(bucket, workdir):
    seconds = 0
    mirror = Mirror(workdir, initial_files=["a"], clock=lambda: seconds)
    for name in "ab":
        (mirror.folder / name).write_text("1")
    mirror.update()
    (mirror.folder / "a").write_text("12")
    mirror.update()
    assert content(bucket, workdir, "a") == "1"
    seconds = COPY_INTERVAL
    mirror.update()
    assert content(bucket, workdir, "a") == "12"
    mirror.close()
    written = [name for name in bucket.writes if name.startswith(workdir.name)]
    assert [name[-1] for name in written] == ["a", "b", "a"]
    assert not mirror.folder.exists()


def test_no_copies_on_disk(tmp_path):
    assert Mirror(tmp_path, initial_files=["a"]).folder == tmp_path


def test_a_configuration_is_read_back(bucket, workdir):
    config = tiny_run("corpus")
    record_config(workdir, config)
    assert content(bucket, workdir, "config.gin") == to_gin(config)
    assert read_config(workdir) == config
    with pytest.raises(UserError, match="train.seed: 0 in the workdir, 1 now"):
        check_changes(workdir, tiny_run("corpus", seed=1))
    more = tiny_run("corpus", num_steps=20)
    for step in (5, 7):
        record_changes(workdir, check_changes(workdir, more), step)
    lines = content(bucket, workdir, "changes.txt").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["step 5", "step 7"]


@pytest.mark.parametrize(
    "name, reason",
    [("missing", "no such bucket"), ("forbidden", "Forbidden"), ("anonymous", "401")],
)
def test_a_bucket_that_refuses_is_one_line(bucket, name, reason):
    with pytest.raises(UserError, match=f"gs://{name}/run .*{reason}.*: name another") as error:
        record_config(workdir_path(f"gs://{name}/run"), tiny_run("corpus"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs://", "gs:///run", "https://x/run"])
def test_other_places_are_refused(place):
    with pytest.raises(UserError, match=f"^{place} cannot hold a run: name a folder"):
        workdir_path(place)


def test_a_bucket_needs_its_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"^gs://bucket/run needs gcsfs: pip install gcsfs"):
        workdir_path("gs://bucket/run")
    workdir_path("runs/name")


@pytest.mark.long
@pytest.mark.slow
def test_a_run_in_a_bucket_equals_one_on_disk(bucket, tmp_path):
    """A run in the bucket is stopped, continued, evaluated and sampled from, without TensorFlow."""
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('TensorFlow is imported')")
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}:{os.getcwd()}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # compiled once for all four commands
    }

    def run(program, *arguments) -> str:
        command = [sys.executable, "-m", f"block_recurrent.{program}", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(errors="replace")

    config = tiny_run(write_corpus(tmp_path / "corpus"))
    (tmp_path / "run.gin").write_text(to_gin(config))
    assert Trainer(config, tmp_path / "run").run()
    there, workdir = "--workdir=gs://bucket/run", workdir_path("gs://bucket/run")
    train = "train", f"--gin_file={tmp_path}/run.gin", there
    run(*train, "--gin_bindings=train.num_steps = 7")
    assert "continuing from step 7" in run(*train)
    expected, lines = (
        [{name: line[name] for name in line.keys() - TIMINGS} for line in lines]
        for lines in map(read_metrics, (tmp_path / "run", workdir))
    )
    assert expected == [line for line in lines if line["step"] != 7]
    steps = {name.split("/")[2] for name in bucket.objects if name.startswith("run/checkpoints/")}
    assert steps == {"7", "8", "12"}, "the newest three; 4 is deleted"
    assert content(bucket, workdir, "layout.txt") == (tmp_path / "run/layout.txt").read_text()
    score = dict(line.split() for line in run("evaluate", there).splitlines())
    assert float(score["bits_per_byte"]) == pytest.approx(lines[-1]["bits_per_byte"], rel=1e-5)
    assert run("generate", there, "--prompt=the state", "--num_tokens=20")
