"""The page of results is what the kept metrics say, and its runs are what the page says."""

import importlib
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """Programs there find each other beside themselves."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def results():
    pytest.importorskip("matplotlib")
    return importlib.import_module("results")


@pytest.fixture(scope="module")
def experiments():
    return importlib.import_module("experiments")


@pytest.fixture(scope="module")
def kept():
    """The folder of what is kept."""
    return importlib.import_module("experiment").KEPT


@pytest.fixture(scope="module")
def texts():
    """The tables about text."""
    pytest.importorskip("matplotlib")
    return importlib.import_module("results_text")


@pytest.fixture(scope="module")
def page(results):
    """The text that the kept metrics make."""
    return results.page()


def test_the_page_is_what_the_kept_metrics_say(results, page):
    assert page == results.PAGE.read_text(encoding="utf-8")


def test_commands_of_the_page_name_runs(page, experiments):
    named = re.findall(r"`python benchmarks/experiments.py (\S+/[^`]*)`", page)
    starts = [name for line in named for name in line.split()]
    assert len(starts) > 10
    for start in starts:
        assert any(one.name.startswith(start) and one.is_there for one in experiments.EXPERIMENTS)


def test_figures_are_drawn_and_kept_small(results, kept):
    for name, figure in results.figures().items():
        assert len(results.png(figure)) < 120_000
        content = (kept / name).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 120_000


def test_what_is_kept_is_small_and_of_an_experiment(experiments, kept):
    known = {one.kept for one in experiments.EXPERIMENTS}
    files = list(kept.rglob("metrics.jsonl"))
    assert files and {file.parent for file in files} <= known
    everything = [file for file in kept.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in everything) < 4 * 2**20


def test_names_begin_no_other(experiments):
    names = [one.name for one in experiments.EXPERIMENTS]
    assert not [(a, b) for a in names for b in names if a != b and a.startswith(b)]


@pytest.mark.parametrize("group, trials", [("text", "tuning"), ("gpu", "gpu_short")])
def test_runs_have_the_learning_rate_that_is_best_for_the_model(texts, experiments, group, trials):
    for model in experiments.TEXT_MODELS if group == "text" else experiments.GPU_MODELS:
        if runs := texts.runs(group, model):
            best = texts.best(trials, model).config.optimizer.learning_rate
            assert {one.config.optimizer.learning_rate for one in runs} == {best}


def test_learning_rates_are_tuned_equally(texts, experiments):
    for model in experiments.TEXT_MODELS:
        rates = [one.config.optimizer.learning_rate for one in texts.tuned("tuning", model)]
        lower = experiments.LOW_RATES if model == experiments.LSTM else ()
        assert rates == [*lower, *experiments.LEARNING_RATES]


def test_a_change_of_the_package_that_is_not_made(experiments):
    [one] = [one for one in experiments.EXPERIMENTS if one.name == "changes/squared/0/"]
    assert one.line.startswith("BRT_CHANGE=squared python -m block_recurrent.train --gin_file=")
    with pytest.raises(SystemExit, match="^error: changes/squared/0/ needs a patched package"):
        one.run_and_keep()


def test_a_name_that_is_none(experiments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["experiments.py", "recal/"])
    with pytest.raises(SystemExit):
        experiments.main()
    assert "no name starts with recal/: choose from changes/fast_gate/" in capsys.readouterr().err
