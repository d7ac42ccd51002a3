"""`evaluate --report` and `analyze` from the command line: their output and their errors."""

import dataclasses
import json
import math
import re
import sys

import numpy as np
import pytest

import block_recurrent.analyze
import block_recurrent.evaluate
from block_recurrent.config.run_config import to_gin
from block_recurrent.evaluation.figures import training_history
from block_recurrent.evaluation.loss_profile import Profile
from block_recurrent.evaluation.report import sample_texts, write_report
from block_recurrent.interop.model_file import save_model
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import load_run
from close import assert_close
from corpus import tiny_run, write_corpus
from html_pages import charts
from tiny import TERMS, TINY, assert_same_numbers

pytestmark = pytest.mark.slow
PROGRAMS = {"evaluate": block_recurrent.evaluate.main, "analyze": block_recurrent.analyze.main}
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with an LSTM gate in the dual configuration, two evaluations, two checkpoints."""
    folder = tmp_path_factory.mktemp("reports")
    steps = {"num_steps": 4, "eval_every_steps": 2, "checkpoint_every_steps": 2}
    config = tiny_run(write_corpus(folder / "texts"), **steps)
    model = dataclasses.replace(config.model, gate="lstm", configuration="dual")
    assert Trainer(dataclasses.replace(config, model=model), folder / "run").run()
    return folder / "run"


@pytest.fixture
def run(run_command, monkeypatch, tmp_path):
    """Runs a program in an empty folder: (exit status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    return lambda program, *arguments: run_command(PROGRAMS[program], *arguments)


@pytest.fixture
def refuse(run, tmp_path):
    def refuse(program, *arguments):
        before = sorted(tmp_path.rglob("*"))
        status, out, err = run(program, *arguments)
        assert (status, out) == (2, "") and err.count("\n") == 1, err
        assert sorted(tmp_path.rglob("*")) == before
        return err.removeprefix("error: ").rstrip()

    return refuse


def write_run(folder, **model):
    """A run's folder that contains only its configuration."""
    config = tiny_run(write_corpus(folder / "texts"))
    model = dataclasses.replace(config.model, **model)
    (folder / "run").mkdir()
    (folder / "run" / "config.gin").write_text(to_gin(dataclasses.replace(config, model=model)))


def test_memory_worth_is_logged_at_every_evaluation(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["split"] == "held_out"]
    assert [line["step"] for line in evaluations] == [2, 4]
    assert all(line["memory_worth"] != 0 for line in evaluations)
    assert not any("memory_worth" in line for line in lines if line["split"] == "train")


def test_a_model_without_states_has_no_probe(tmp_path):
    config = tiny_run(write_corpus(tmp_path / "texts"))
    model = dataclasses.replace(config.model, recurrent_layers=())
    trainer = Trainer(dataclasses.replace(config, model=model), tmp_path / "run")
    assert trainer.evaluation.probe is None


def test_report(finished, run, tmp_path):
    arguments = f"--workdir={finished}", "--report=page.html", "--json=score.json"
    status, out, err = run("evaluate", *arguments)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].split(maxsplit=1) == ["report", "page.html, page.json"]
    score = json.loads((tmp_path / "score.json").read_text())
    numbers = json.loads((tmp_path / "page.json").read_text())
    table, alone = numbers.pop("by_distance"), score.pop("by_distance")
    assert numbers.items() >= score.items()
    for name in ("bits_per_token", "accuracy"):
        assert alone[name].keys() == {"carried"}
        found, expected = (np.array(each[name]["carried"]) for each in (table, alone))
        assert_same_numbers(found, expected)
    right = np.dot(table["accuracy"]["carried"], table["tokens"])
    assert_same_numbers(right, score["accuracy"] * score["tokens"])
    bits, tokens = table["bits_per_token"], np.array(table["tokens"])
    assert set(bits) == set(table["state_rms"]) == {"carried", "cleared", "swapped"}
    assert alone["state_rms"].keys() == {"carried"}, "at the ends of other segments"
    assert tokens.sum() == score["tokens"] and table["first"][:4] == [0, 1, 2, 4]
    totals = {memory: np.dot(each, tokens) for memory, each in bits.items()}
    assert_same_numbers(totals["carried"], score["bits_per_token"] * score["tokens"])
    lost = (totals["cleared"] - totals["carried"]) / score["tokens"]
    worth = {"terms": TERMS, "scale": score["bits_per_token"]}  # a difference of two such losses
    assert_close(numbers["memory_worth"], lost, **worth)
    # All the held-out documents are few enough for the figure of training to be the same one.
    logged = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert_close(logged["memory_worth"], numbers["memory_worth"], **worth)

    text = (tmp_path / "page.html").read_text()
    names = [chart["y_label"] for chart in charts(text)]
    lost = "bits per token lost"
    expected = ["bits per token", "accuracy", "RMS of the recurrent states", lost]
    assert names == [*expected, "bits per byte", lost]
    lines = charts(text)[0]["lines"]
    assert [line["style"] for line in lines] == [0, 1, 2], "lines that coincide are told apart"
    assert lines[1]["y"][:-1] == table["bits_per_token"]["cleared"]
    assert "train.batch_size = 4" in text and f"<td>tokens</td><td>{score['tokens']:,}</td>" in text
    assert f"<td>memory_worth</td><td>{numbers['memory_worth']:.4f}</td>" in text


def test_report_of_a_model_without_states_and_without_history(tmp_path):
    config = tiny_run(tmp_path)
    config = dataclasses.replace(config, model=dataclasses.replace(TINY, recurrent_layers=()))
    profile = Profile(*np.zeros((5, 32)))
    profile.nats[:4], profile.tokens[:4] = math.log(2) * np.array([1, 1, 0, 1]), (1, 1, 0, 2)
    profile.correct[3] = 1
    result = {"step": 3, "split": "<test>"}
    write_report(tmp_path / "a.html", tmp_path, config, result, profile, {})
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert numbers["by_distance"]["bits_per_token"] == {"carried": [1.0, 1.0, None, 0.5]}
    assert numbers["by_distance"]["accuracy"] == {"carried": [0.0, 0.0, None, 0.5]}
    assert "memory_worth" not in numbers
    text = (tmp_path / "a.html").read_text()
    (loss, _) = charts(text)
    assert loss["lines"][0]["y"] == [1.0, 1.0, None, 0.5, 0.5]
    assert loss["lines"][0]["x"] == [1, 2, 3, 5, 9] and loss["is_stepped"]
    assert "&lt;test&gt;" in text and "<test>" not in text


def test_the_history_shows_both_weights():
    lines = [{"step": 1, "split": "train", "bits_per_byte": 3.0}]
    lines += [{"step": 2, "split": "held_out", "bits_per_byte": 2.5}]
    labels = ["train", "held-out"]
    assert [line.label for line in training_history(lines)[0].lines] == labels
    lines += [{"step": 2, "split": "held_out_averaged", "bits_per_byte": 2.25}]
    labels += ["held-out, averaged weights"]
    assert [line.label for line in training_history(lines)[0].lines] == labels


def test_the_report_shows_what_the_model_wrote_last():
    samples = [{"step": step, "prompt": "<a>", "text": f"text {step}"} for step in (2, 4, 4)]
    heading, *texts = sample_texts(samples)
    assert heading == "<h2>Text that the model wrote after step 4</h2>"
    assert texts == 2 * ["<pre>&lt;a&gt;<b>text 4</b></pre>"]
    assert sample_texts([]) == []


def test_a_step_is_analyzed(finished, run, tmp_path):
    status, out, err = run("analyze", f"--workdir={finished}", "--step=2", "--output=second")
    assert (status, err) == (0, "")
    summary = json.loads((tmp_path / "second" / "analysis.json").read_text())
    assert summary["step"] == 2
    take, quantiles = "ffn_gate_take", summary["gate_quantiles"]
    arrays = np.load(tmp_path / "second" / "layer_0.npz")
    expected = summary["gates_over_training"]["2"]["0"][take]
    assert_close(np.array(expected), np.quantile(arrays[take], quantiles), terms=1)


def test_analysis(finished, run, tmp_path):
    (tmp_path / "text.txt").write_text("gates carry $tates, naïve 雪 ones\n" * 8)
    arguments = f"--workdir={finished}", "--text_file=text.txt", "--output=new/inside"
    status, out, err = run("analyze", *arguments)
    assert (status, err) == (0, "")
    assert out.startswith("1 recurrent layer(s) over ") and out.endswith("in new/inside\n")
    folder = tmp_path / "new" / "inside"
    pictures = sorted(path.name for path in folder.glob("*.png"))
    kinds = "gates gates_over_training states_to_states states_to_tokens"
    assert pictures == [f"layer_0_{kind}.png" for kind in kinds.split()]
    assert all((folder / name).read_bytes().startswith(PNG) for name in pictures)
    summary = json.loads((folder / "analysis.json").read_text())
    assert (summary["step"], summary["text"], summary["gate"]) == (4, "text.txt", "lstm")
    assert list(summary["gates_over_training"]) == ["2", "4"]
    history = summary["gates_over_training"]
    assert history["2"] != history["4"], "each checkpoint has its own values"
    arrays = np.load(folder / "layer_0.npz")
    for kind in ("states_to_states", "states_to_tokens", "tokens_to_states"):
        sums = arrays[kind].sum(-1)
        assert_close(sums, np.ones_like(sums), terms=arrays[kind].shape[-1])
    last = history["4"]["0"]["ffn_gate_take"]
    expected = np.quantile(arrays["ffn_gate_take"], summary["gate_quantiles"])
    assert_close(np.array(last), expected, terms=1)


def test_page_of_held_out_documents(finished, run, tmp_path):
    """The longest one, compared with the memory of the second longest."""
    status, out, err = run("analyze", f"--workdir={finished}", "--html=page.html")
    assert (status, err) == (0, "")
    numbers, written = out.splitlines()
    found = re.fullmatch(
        r"([\d,]+) tokens: [\d.]+ bits per token with memory, [+-][\d.]+ without, "
        r"[+-][\d.]+ with another document's",
        numbers,
    )
    assert found and written.startswith("page in page.html (0.")
    page = (tmp_path / "page.html").read_text()
    assert "<title>What the memory does in " in page and 'id="data">' in page
    status, again, _ = run("analyze", f"--workdir={finished}", "--step=2", "--html=page.html")
    assert status == 0 and again.splitlines()[0] != numbers


def test_a_held_out_document_shorter_than_a_block_is_not_compared_with(finished, run, monkeypatch):
    found = block_recurrent.analyze.held_out_documents

    def with_a_short_one(*arguments):
        (first, second), vocabulary = found(*arguments)
        return [first, second._replace(tokens=second.tokens[: TINY.window_length - 1])], vocabulary

    monkeypatch.setattr(block_recurrent.analyze, "held_out_documents", with_a_short_one)
    status, out, err = run("analyze", f"--workdir={finished}", "--html=page.html")
    assert (status, err) == (0, "") and out.splitlines()[0].endswith(" without")


def test_page_of_a_file(finished, run, tmp_path):
    """Its last block is incomplete. With a run, or with the model file of that run."""
    (tmp_path / "text.txt").write_text("seven b")
    (tmp_path / "other.txt").write_text("another text")
    _, model, _ = load_run(finished)
    save_model(tmp_path / "model", model, vocabulary="bytes")
    text, other = "--text_file=text.txt", "--other_file=other.txt"
    lines = []
    for source in (f"--workdir={finished}", "--model=model"):
        status, out, err = run("analyze", source, text, other, "--html=page.html")
        assert (status, err) == (0, "")
        lines.append(out.splitlines()[0])
    assert lines[0] == lines[1]
    assert lines[0].startswith("7 tokens: ") and "with another document's" in lines[0]


def test_page_refusals(refuse, finished, tmp_path):
    (tmp_path / "short.txt").write_text("seven b")
    (tmp_path / "empty.txt").touch()
    page, short = "--html=a.html", "--text_file=short.txt"
    assert refuse("analyze", page) == "a model file has no documents: give a --text_file to read"
    assert refuse("analyze", short, "--output=a") == (
        "--output shows the checkpoints of a run: give its --workdir"
    )
    assert refuse("analyze", page, short, "--step=4") == (
        "--step and --weights need --workdir: a model file has one set of weights"
    )
    assert refuse("analyze", page, short, "--gin_bindings=data.path = 'x'") == (
        "--gin_bindings says where the corpus of a run lies: give its --workdir"
    )
    assert refuse("analyze", short, "--html=a.pdf") == (
        "--html=a.pdf: give a file name that ends in .html"
    )
    assert refuse("analyze", page, "--text_file=empty.txt") == (
        "empty.txt has only 0 tokens: give a longer text with --text_file"
    )
    assert refuse("analyze", page, short, "--max_tokens=0") == (
        "short.txt has only 0 tokens: give a longer text with --text_file, or a larger --max_tokens"
    )
    assert refuse("analyze", page, short, "--other_file=short.txt") == (
        "short.txt has only 7 tokens, less than one block of 64: give a longer text with "
        "--other_file"
    )
    assert refuse("analyze", page, short, "--other_file=no.txt") == (
        "cannot read --other_file=no.txt (No such file or directory)"
    )
    run = f"--workdir={finished}"
    assert refuse("analyze", run, "--output=a", "--other_file=short.txt") == (
        "--other_file is for the page: give --html instead of --output"
    )
    assert "one of the arguments --html --output is required" in refuse("analyze", run)


def test_analysis_of_the_longest_held_out_document(finished, run):
    status, out, err = run("analyze", f"--workdir={finished}", "--output=a", "--max_tokens=50")
    assert (status, err) == (0, "") and " over 48 tokens of " in out


def test_report_refusals(refuse, finished):
    run = f"--workdir={finished}"
    assert refuse("evaluate", run, "--report=nowhere/a.html") == (
        "no folder nowhere for --report=nowhere/a.html: create it first"
    )
    assert refuse("evaluate", run, "--report=a.pdf") == (
        "--report=a.pdf: give a file name that ends in .html"
    )


def test_without_matplotlib(refuse, finished, monkeypatch):
    for name in list(sys.modules):
        if name.endswith(("plots", "analysis.report", "analysis.figures")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("matplotlib", "matplotlib.axes"):
        monkeypatch.setitem(sys.modules, name, None)
    message = "plots need matplotlib: pip install matplotlib (or this package with its extra "
    assert refuse("analyze", f"--workdir={finished}", "--output=a") == message + "[plots])"


def test_analysis_refusals(refuse, finished, tmp_path):
    run, output = f"--workdir={finished}", "--output=out"
    (tmp_path / "short.txt").write_text("seven b")
    (tmp_path / "empty.txt").touch()
    assert refuse("analyze", run, output, "--text_file=short.txt").startswith(
        "short.txt has only 7 tokens, less than one block of 8: give a longer text"
    )
    assert refuse("analyze", run, output, "--text_file=empty.txt").startswith(
        "empty.txt has only 0 "
    )
    assert refuse("analyze", run, output, "--text_file=none.txt") == (
        "cannot read --text_file=none.txt (No such file or directory)"
    )
    assert "larger --max_tokens" in refuse("analyze", run, output, "--max_tokens=-3")
    assert refuse("analyze", run, "--output=short.txt") == (
        "--output=short.txt is a file: give the path of a folder"
    )
    assert refuse("analyze", "--workdir=none", output).startswith("none contains no run")


def test_analysis_needs_a_recurrent_layer_and_a_checkpoint(refuse, tmp_path):
    write_run(tmp_path, recurrent_layers=())
    assert refuse("analyze", "--workdir=run", "--output=out") == (
        "the model in run has no recurrent layers to analyze: choose a run that sets "
        "BlockRecurrentTransformer.recurrent_layers"
    )


def test_analysis_without_a_checkpoint(refuse, tmp_path):
    write_run(tmp_path)
    assert refuse("analyze", "--workdir=run", "--output=out").startswith("no checkpoint in ")
