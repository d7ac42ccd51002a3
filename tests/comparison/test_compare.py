"""`compare`: from the folders of runs to tables, JSON and a page."""

import dataclasses
import functools
import json
import math
import re

import jax
import numpy as np
import pytest
from scipy import stats

import block_recurrent.compare
from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import RunConfig, to_gin
from block_recurrent.config.train_options import TrainConfig, WatchConfig
from block_recurrent.model.transformer import parameters
from block_recurrent.training.trainer import Trainer
from corpus import tiny_run, write_corpus
from html_pages import charts
from tiny import TINY, variant_model

CORPUS = {
    "train": {"fingerprint": 3, "documents": 5},
    "held_out": {"fingerprint": 7, "documents": 1, "lengths": {"a.txt": 9}},
}
BITS = {0: (3.0, 2.5, 2.75), 1: (3.1, 2.75, 2.9), 2: (3.3, 2.5, 2.5)}  # seed → after 10, 20, 30


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """Runs `compare` in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(run_command, block_recurrent.compare.main)


@pytest.fixture
def compare(run, tmp_path):
    """Runs `compare` and returns the lines that it prints, and the numbers of --json."""

    def compare(*arguments):
        status, out, err = run(*arguments, "--json=numbers.json")
        assert (status, err) == (0, "")
        return out.splitlines(), json.loads((tmp_path / "numbers.json").read_text())

    return compare


def write_run(folder, bits=(3.0, 2.5, 2.75), *, model=None, corpus=CORPUS, lines=(), **train):
    """A run of 30 steps, at 0.5 and 0.7 s per step, with the bits per byte of its evaluations."""
    config = RunConfig(
        model=dataclasses.replace(TINY, **(model or {})),
        train=TrainConfig(**{"num_steps": 100, "batch_size": 2, "segment_length": 32, **train}),
        data=DataConfig(vocabulary="bytes"),
    )
    folder.mkdir(parents=True)
    (folder / "config.gin").write_text(to_gin(config))
    if corpus:
        (folder / "corpus.json").write_text(json.dumps(corpus))
    written = list(lines)
    for index, value in enumerate(bits, 1):
        seconds = 0.5 if index < 3 else 0.7  # of 64 positions, a fourth of them padding
        speed = {"padding": 0.25, "tokens_per_second": 48 / seconds, "nonfinite_steps": 0}
        line = {"step": 10 * index, "split": "train", "loss": 1.0, "bits_per_byte": 1.0}
        written.append(line | speed)
        loss = None if value is None else value * math.log(2)
        line |= {"split": "held_out", "loss": loss, "bits_per_byte": value}
        written.append(line)
    text = "".join(json.dumps(line) + "\n" for line in written)
    (folder / "metrics.jsonl").write_text(text + '{"step": 40, "spl')  # a line that was cut off
    return config


def cells(lines, run):
    """The row of a run, by its heading."""
    row = next(line for line in lines if line.startswith(run))
    return dict(zip(*(re.split(r" {2,}", line) for line in (lines[0], row)), strict=True))


def test_two_runs(compare, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", (2.0, None), model={"gate": "lstm"})
    lines, numbers = compare("a", "b")
    num_params = sum(leaf.size for leaf in jax.tree.leaves(parameters(variant_model("fixed_skip"))))
    assert cells(lines, "a") == {
        "run": "a",
        "gate": "'fixed'",
        "step": "30 of 100",
        "loss": f"{2.75 * math.log(2):.4f}",
        "best loss": f"{2.5 * math.log(2):.4f}",
        "at step": "20",
        "bits per byte": "2.7500",
        "best bits per byte": "2.5000",
        "seconds per step": "0.5",
        "parameters": f"{num_params:,}",
    }
    assert cells(lines, "b")["best bits per byte"] == "2.0000"
    assert cells(lines, "b")["bits per byte"] == "nan"
    assert len(lines) == 3, "no groups, no notes"
    one, other = numbers["runs"]
    assert one["evaluations"][2] == {
        "step": 30,
        "seconds": pytest.approx(17),
        "loss": pytest.approx(2.75 * math.log(2)),
        "bits_per_byte": 2.75,
    }
    assert (one["best"]["step"], other["last"]["bits_per_byte"]) == (20, None)
    assert one["options"] == {"gate": "fixed"} and other["options"] == {"gate": "lstm"}
    assert numbers["differences"] == numbers["notes"] == []


def test_seeds_are_grouped_and_paired(compare, tmp_path):
    folders = []
    for gate, more in (("fixed", 0.0), ("gru", -0.25)):
        for seed, bits in BITS.items():
            bits = [value + more * (1 + seed) for value in bits]
            write_run(tmp_path / f"{gate}-{seed}", bits, model={"gate": gate}, seed=seed)
            folders.append(f"{gate}-{seed}")
    write_run(tmp_path / "gru-3", (9.0, 9.0, 9.0), model={"gate": "gru"}, seed=3)
    lines, numbers = compare(*folders, "gru-3")
    assert [group["runs"] for group in numbers["groups"]] == [folders[:3], [*folders[3:], "gru-3"]]
    start = lines.index("Mean and standard deviation over seeds:") + 1
    fixed = dict(zip(*(re.split(r" {2,}", line) for line in lines[start : start + 2]), strict=True))
    now, best = (2.75, 2.9, 2.5), (2.5, 2.75, 2.5)
    assert (fixed["runs"], fixed["gate"], fixed["seeds"]) == ("fixed", "'fixed'", "0, 1, 2")
    assert fixed["bits per byte"] == f"{np.mean(now):.4f} ± {np.std(now, ddof=1):.4f}"
    assert fixed["best bits per byte"] == f"{np.mean(best):.4f} ± {np.std(best, ddof=1):.4f}"
    (found,) = numbers["differences"]
    assert (found["seeds"], found["step"], found["label"]) == ([0, 1, 2], 30, "gru")
    interval = stats.ttest_1samp([-0.25, -0.5, -0.75], 0.0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(-0.5)
    assert found["half_width"] == pytest.approx((interval.high - interval.low) / 2)
    assert lines[-1] == (
        "gru, against fixed: -0.5000 bits per byte (95% interval "
        f"{interval.low:+.4f} to {interval.high:+.4f}) at step 30, seeds 0, 1, 2"
    )


def test_groups_are_compared_after_the_same_step(compare, tmp_path):
    write_run(tmp_path / "a0", (3.0, 2.0, 1.0))
    write_run(tmp_path / "a1", (3.0, 2.0), seed=1)
    write_run(tmp_path / "b1", (3.5, 2.5, 0.5), seed=1, model={"num_states": 4})
    write_run(tmp_path / "c5", seed=5, model={"num_states": 5})
    write_run(tmp_path / "d0", (), lines=[{"step": 5, "split": "train"}], model={"num_states": 3})
    lines, numbers = compare("a0", "a1", "b1", "c5", "d0")
    assert lines[-3:] == [
        "b1, against a: +0.5000 bits per byte at step 20, seed 1",
        "c5, against a: no seeds in common",
        "d0, against a: no evaluation after the same step",
    ]
    assert numbers["differences"][0]["half_width"] is None


@pytest.mark.parametrize(
    "names, label",
    [
        (("x/gru-0", "x/gru-1"), "gru"),
        (("sweep_gru_10", "sweep_gru_11"), "sweep_gru"),
        (("layers12-s1", "layers12-s2"), "layers12-s"),
        (("one", "two"), "one, two"),
        (("base-1", "base-2"), "base-1, base-2"),  # another run has the name
    ],
)
def test_names_of_groups(compare, names, label, tmp_path):
    for seed, name in enumerate(names):
        write_run(tmp_path / name, seed=seed)
    write_run(tmp_path / "base", model={"num_states": 4})
    _, numbers = compare(*names, "base")
    assert [group["label"] for group in numbers["groups"]] == [label, "base"]


def test_incidental_options_are_left_out(compare, tmp_path):
    write_run(tmp_path / "a")
    saved = {"checkpoint_every_steps": 3, "keep_checkpoints": 4, "keep_best": 2}
    others = saved | {"keep_every_steps": 6, "profile_steps": (4, 5), "wandb_project": "w"}
    config = write_run(tmp_path / "b", seed=1, **others)
    other = dataclasses.replace(config, watch=WatchConfig(port=99))
    other = dataclasses.replace(other, data=dataclasses.replace(config.data, path="/elsewhere"))
    (tmp_path / "b" / "config.gin").write_text(to_gin(other))
    lines, numbers = compare("a", "b")
    assert numbers["runs"][0]["options"] == {"train.seed": 0}
    assert [group["label"] for group in numbers["groups"]] == ["a, b"]


def test_other_held_out_text_is_not_compared(compare, run, tmp_path):
    other = CORPUS | {"held_out": CORPUS["held_out"] | {"fingerprint": 8}}
    limited = [{"step": 1, "split": "held_out", "loss": 1.0, "bits_per_byte": 4.0, "tokens": 9}]
    write_run(tmp_path / "a")
    write_run(tmp_path / "a1", seed=1)
    write_run(tmp_path / "b", corpus=other, model={"num_states": 4})
    write_run(tmp_path / "c", lines=limited, model={"num_states": 5})
    lines, numbers = compare("a", "a1", "b", "c")
    assert [cells(lines, name)["held-out text"] for name in ("a1", "b ", "c ")] == ["A", "B", "C"]
    assert "were scored on other text" in numbers["notes"][0] and lines[-1] == numbers["notes"][0]
    for name in ("b", "c"):
        assert f"{name}, against a: not comparable: other held-out text" in lines


def test_other_training_text_is_compared_on_the_same_held_out_text(compare, tmp_path):
    """Runs on several corpora, where one is the common measure, are no repetitions."""
    config = write_run(tmp_path / "a")
    write_run(tmp_path / "a1", seed=1)
    write_run(tmp_path / "b1", corpus=CORPUS | {"train": {"fingerprint": 4}})
    data = dataclasses.replace(config.data, path="/b")
    train = dataclasses.replace(config.train, seed=1)
    (tmp_path / "b1" / "config.gin").write_text(
        to_gin(dataclasses.replace(config, data=data, train=train))
    )
    lines, numbers = compare("a", "a1", "b1")
    assert numbers["runs"][2]["options"] == {"path": "/b", "train.seed": 1}
    assert [one["held_out_text"] for one in numbers["runs"]] == ["A", "A", "A"]
    assert lines[-1] == "b1, against a: +0.0000 bits per byte at step 30, seed 1"


def test_another_vocabulary_can_have_the_same_text(compare, tmp_path):
    other = CORPUS | {"held_out": CORPUS["held_out"] | {"fingerprint": 8}}
    write_run(tmp_path / "a")
    config = write_run(tmp_path / "b", corpus=other)
    write_run(
        tmp_path / "lossy", corpus=other, lines=[{"step": 1, "split": "train", "text_lost": 0.02}]
    )
    data = dataclasses.replace(config.data, vocabulary="tokenizer-1")
    for name in ("b", "lossy"):
        (tmp_path / name / "config.gin").write_text(to_gin(dataclasses.replace(config, data=data)))
    lines, numbers = compare("a", "b")
    assert [one["held_out_text"] for one in numbers["runs"]] == ["A", "A"]
    assert numbers["notes"] == [
        "The runs have different vocabularies: compare bits per byte, not losses."
    ]
    _, numbers = compare("a", "lossy")
    assert numbers["notes"][1] == (
        "lossy: bits per byte (not comparable: the vocabulary loses 2.00% of the text)."
    )


def test_a_run_without_a_record_of_its_corpus(compare, tmp_path):
    write_run(tmp_path / "a", corpus=None)
    write_run(tmp_path / "b", corpus=None, seed=1)
    write_run(tmp_path / "c")
    _, numbers = compare("a", "b", "c")
    assert [one["held_out_text"] for one in numbers["runs"]] == ["A", "A", "B"]


def test_changes_on_the_way_are_told(compare, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=1)
    changes = ["step 10: the learning rate was 0.03, is 0.01", "step 20: train.seed was 0, is 1"]
    (tmp_path / "b" / "changes.txt").write_text("".join(f"{line}\n" for line in changes))
    lines, numbers = compare("a", "b")
    assert [one["changes"] for one in numbers["runs"]] == [[], changes]
    assert lines[-1] == f"b changed on the way: {changes[0]}; {changes[1]}."


def test_the_page_is_self_contained(run, tmp_path):
    write_run(tmp_path / "x" / "<a>", model={"gate": "lstm"})
    write_run(tmp_path / "y" / "<a>", seed=1)
    status, out, err = run("x/<a>", "y/<a>", "--html=page.html")
    assert (status, err) == (0, "")
    page = (tmp_path / "page.html").read_text()
    by_step, by_time = charts(page)
    assert [line["label"] for line in by_step["lines"]] == ["x/<a>", "y/<a>"]
    assert len({(line["style"], line["marker"]) for line in by_step["lines"]}) == 2
    assert (by_step["x_label"], by_time["x_label"].split(",")[0]) == ("step", "training time")
    assert "<td>x/&lt;a&gt;</td>" in page and "<a>" not in page, "runs of equal name have paths"
    assert out.splitlines()[1].startswith("x/<a>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "x", "y"]


def test_a_run_that_has_just_begun(compare, run, tmp_path):
    write_run(tmp_path / "a", (), lines=[{"step": 5, "split": "train", "tokens_per_second": 0.0}])
    write_run(tmp_path / "b", (), lines=[{"step": 5, "split": "train"}], seed=1)
    _, numbers = compare("a", "b")
    assert [one["last"] for one in numbers["runs"]] == [None, None]
    assert [one["seconds_per_step"] for one in numbers["runs"]] == [None, None]
    status, _, err = run("a", "b", "--html=page.html")
    assert (status, err) == (0, "") and not charts((tmp_path / "page.html").read_text())


def test_only_charts_that_show_something(run, tmp_path):
    write_run(tmp_path / "untimed", lines=[{"step": 5, "split": "train", "tokens_per_second": 0}])
    metrics = tmp_path / "untimed" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("tokens_per_second", "other"))
    write_run(tmp_path / "overflowed", (None, None))
    for name, shown in (("untimed", ["step"]), ("overflowed", [])):
        assert run(name, "--html=page.html")[0] == 0
        assert [chart["x_label"] for chart in charts((tmp_path / "page.html").read_text())] == shown


def test_help(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "") and "\nexamples:\n  python -m block_recurrent.compare" in out
    assert max(map(len, out.splitlines())) <= 100


def test_mistakes(run, tmp_path):
    config = write_run(tmp_path / "a")
    for name in ("empty", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.gin").write_text(to_gin(config))
    (tmp_path / "empty" / "metrics.jsonl").touch()
    (tmp_path / "folder").mkdir()
    lacks = " has no metrics to compare (metrics.jsonl is missing or empty): train first, or leave"
    for arguments, message in (
        ([], "the following arguments are required: RUN"),
        (["a", "folder"], "folder contains no run (no config.gin): train first, or name another"),
        (["a", "no"], "no contains no run (no config.gin): train first, or name another folder"),
        (["a", "a/metrics.jsonl"], "a/metrics.jsonl contains no run (no config.gin): train first"),
        (["empty"], f"empty{lacks}"),
        (["none", "a"], f"none{lacks}"),
        (["a", "a/"], f"{tmp_path}/a is given 2 times: name each run once"),
        (["s3://b/a"], "argument RUN: s3://b/a cannot hold a run: name a folder on disk, or gs:"),
        (["a", "--html=a.txt"], "--html=a.txt: give a file name that ends in .html"),
        (["a", "--html=b/a.html"], "no folder b for --html=b/a.html: create it first"),
        (["a", "--json=folder"], "--json=folder is a folder: give the path of a file"),
    ):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {message}"), err
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_runs_that_were_trained(compare, tmp_path):
    """The numbers are those of the runs, and the time of a step is about what it took."""
    texts = write_corpus(tmp_path / "texts")
    for seed in (0, 1):
        config = tiny_run(texts, seed=seed, num_steps=4, eval_every_steps=2, log_every_steps=2)
        assert Trainer(config, tmp_path / f"run-{seed}").run()
    lines, numbers = compare("run-0", "run-1")
    for seed, one in enumerate(numbers["runs"]):
        text = (tmp_path / f"run-{seed}" / "metrics.jsonl").read_text()
        logged = [json.loads(line) for line in text.splitlines()]
        held_out = [line["bits_per_byte"] for line in logged if line["split"] == "held_out"]
        assert [point["bits_per_byte"] for point in one["evaluations"]] == held_out
        assert (one["step"], one["options"]) == (4, {"train.seed": seed})
        assert 0 < one["seconds_per_step"] < 60
    assert [one["held_out_text"] for one in numbers["runs"]] == ["A", "A"]
