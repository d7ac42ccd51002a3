"""Reads what benchmarks/experiments.py keeps of the runs, and formats it for docs/results.md."""

import functools
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import scipy.stats
from experiment import KEPT, Experiment, Model
from experiments import EXPERIMENTS

from block_recurrent.model.transformer import abstract_model
from block_recurrent.reporting.plots import Axes

COLORS = {
    "fixed_skip": "#0072B2",
    "transformer_xl": "#D55E00",
    "sliding_window": "#E69F00",
    "lstm": "#009E73",
    "lstm_skip": "#CC79A7",
    "lstm_dual": "#CC79A7",
    "gru_skip": "#56B4E9",
    "selective_skip": "#8B4513",
    "fixed_dual": "#56B4E9",
    "feedback": "#000000",
    "sliding_window_4": "#E69F00",
    "every_layer": "#009E73",
    "long": "#000000",
}


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@functools.cache
def metrics(experiment: Experiment, split: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl for a split."""
    lines = (experiment.kept / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["split"] == split]


def runs(group: str, model: Model) -> list[Experiment]:
    """The runs of a model whose metrics are there."""
    return [one for one in EXPERIMENTS if (one.group, one.model) == (group, model) and one.is_there]


def final(experiment: Experiment, key: str) -> float:
    """A metric of the evaluation at the end of the run."""
    return metrics(experiment, "held_out")[-1][key]


def minutes(experiment: Experiment) -> float:
    """Wall-clock minutes, of the training steps alone."""
    train = experiment.config.train
    tokens = train.batch_size * train.segment_length * train.log_every_steps
    lines = metrics(experiment, "train")
    return sum(tokens * (1 - each["padding"]) / each["tokens_per_second"] for each in lines) / 60


def microseconds_per_token(group: str, model: Model) -> float:
    """Processor time of a training step, as benchmarks/experiment_time.py has measured it."""
    train = next(
        one for one in EXPERIMENTS if (one.group, one.model) == (group, model)
    ).config.train
    seconds = read_json(KEPT / group / "step_time.json")["seconds_a_step"][model.name]
    return 1e6 * seconds / (train.batch_size * train.segment_length)


def num_parameters(experiment: Experiment) -> int:
    _, params = abstract_model(experiment.config.model)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def spread(values: Iterable[float], form: str) -> str:
    """The mean; for several values, also the least and the largest."""
    values = list(values)
    text = f"{statistics.mean(values):{form}}"
    return text if len(values) == 1 else f"{text} ({min(values):{form}} – {max(values):{form}})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_distance(experiment: Experiment, split: str) -> dict[str, Any]:
    return read_json(experiment.kept / f"{split}.json")["by_distance"]


def mean_between(bins: Mapping[str, Any], score: str, least: int, below: int) -> float:
    """Mean of a score over tokens at distances from `least` to below `below`."""
    lines = zip(bins["first"], bins["tokens"], bins[score]["carried"], strict=True)
    chosen = [(tokens, value) for first, tokens, value in lines if least <= first < below]
    return sum(n * value for n, value in chosen) / sum(n for n, _ in chosen)


def columns(bounds: Sequence[int]) -> list[str]:
    """The headers of `accuracies`."""
    first, *middle, last = itertools.pairwise(bounds)
    names = [f"{a:,} – {b - 1:,}" for a, b in middle]
    first = f"{first[0]:,} – {first[1] - 1:,}" if first[0] else f"to {first[1] - 1:,}"
    return [first, *names, f"from {last[0]:,}"]


def differences(group: str, one: Model, other: Model) -> str:
    """Differences in bits per byte, seed by seed."""
    pairs = zip(runs(group, one), runs(group, other), strict=True)
    return ", ".join(
        f"{final(a, 'bits_per_byte') - final(b, 'bits_per_byte'):+.3f}" for a, b in pairs
    )


def mean_difference(group: str, one: Model, other: Model) -> str:
    """Mean of the differences in bits per byte by seed, and the half-width of its 95% interval."""
    pairs = list(zip(runs(group, one), runs(group, other), strict=True))
    values = [final(a, "bits_per_byte") - final(b, "bits_per_byte") for a, b in pairs]
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * error
    return f"{statistics.mean(values):+.3f} ± {half:.3f}"


def worth_of(experiments: Sequence[Experiment]) -> str:
    if not experiments[0].config.model.has_recurrent_state:
        return "–"
    return spread((final(one, "memory_worth") for one in experiments), "z.3f")


def plot_worth(ax: Axes, experiment: Experiment, **style: Any):
    """Plots the worth of the recurrent state over training, if the model has a state."""
    lines = metrics(experiment, "held_out")
    worth = [(line["step"], line["memory_worth"]) for line in lines if "memory_worth" in line]
    if worth:
        ax.plot(*zip(*worth, strict=True), **style)
