"""Writes docs/results.md and its figures from the files that benchmarks/experiments.py keeps.

python benchmarks/results.py
"""

import argparse
import functools
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import results_time
import scipy.stats
from experiments import (
    CHANGES,
    DEFAULT_MODELS,
    EXPERIMENTS,
    FIXED_SKIP,
    GATE_MODELS,
    GATES_IN_SHORT_RUNS,
    GPU_MODELS,
    GPU_RATES,
    GRU_SKIP,
    KEPT,
    LEARNING_RATES,
    LONG,
    MODERN,
    OTHER_RATES,
    PARTS,
    PATCHED,
    RECALL_MODELS,
    ROTARY,
    ROWS,
    SELECTIVE_SKIP,
    TEXT_MODELS,
    Experiment,
    Model,
)

from block_recurrent.data.recall import SPLITS
from block_recurrent.model.transformer import abstract_model
from block_recurrent.reporting.plots import Axes, Figure, legend_above, new_figure, png, token_axis

PAGE = KEPT.parent / "results.md"
TEMPLATE = Path(__file__).parent / "results_page.md"
# The palette of Okabe and Ito.
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
    "long": "#000000",
}
LANES_COLORS = {16: "#D55E00", 256: "#E69F00", 512: "#56B4E9", 1024: "#0072B2"}
GREY = "#777777"
BOUNDS = (
    0,
    64,
    128,
    2048,
    4096,
    8192,
    2**31,
)  # of distances in the table; they coincide with bounds of bins
GATES_BOUNDS = (0, 512, 2048, 8192, 2**31)
FARTHER_BOUNDS = (64, *(2**k for k in range(11, 17)), 2**31)


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


# The memory task


def by_distance(experiment: Experiment, split: str) -> dict[str, Any]:
    return read_json(experiment.kept / f"{split}.json")["by_distance"]


def mean_between(bins: Mapping[str, Any], score: str, least: int, below: int) -> float:
    """Mean of a score over tokens at distances from `least` to below `below`."""
    lines = zip(bins["first"], bins["tokens"], bins[score]["carried"], strict=True)
    chosen = [(tokens, value) for first, tokens, value in lines if least <= first < below]
    return sum(n * value for n, value in chosen) / sum(n for n, _ in chosen)


def accuracies(seeds: Sequence[Experiment], split: str, bounds: Sequence[int]) -> list[str]:
    """Accuracy between the bounds."""
    bins = [by_distance(one, split) for one in seeds]
    return [
        spread((mean_between(each, "accuracy", *ends) for each in bins), ".1%")
        for ends in itertools.pairwise(bounds)
    ]


def columns(bounds: Sequence[int]) -> list[str]:
    """The headers of `accuracies`."""
    first, *middle, last = itertools.pairwise(bounds)
    names = [f"{a:,} – {b - 1:,}" for a, b in middle]
    first = f"{first[0]:,} – {first[1] - 1:,}" if first[0] else f"to {first[1] - 1:,}"
    return [first, *names, f"from {last[0]:,}"]


def recall_table() -> str:
    header = ["model", "parameters", "µs per token", "seeds", *columns(BOUNDS)]
    rows = []
    for model in RECALL_MODELS:
        seeds = runs("recall", model)
        rows.append(
            [
                model.label,
                f"{num_parameters(seeds[0]):,}",
                f"{microseconds_per_token('recall', model):.0f}",
                str(len(seeds)),
                *accuracies(seeds, "far", BOUNDS),
            ]
        )
    return table(header, rows)


def farther_table() -> str:
    rows = []
    for model in GATE_MODELS:
        seeds = runs("recall", model)
        rows.append([model.label, str(len(seeds)), *accuracies(seeds, "farther", FARTHER_BOUNDS)])
    return table(["model", "seeds", *columns(FARTHER_BOUNDS)], rows)


def interventions_table() -> str:
    """Accuracy and RMS of the states by distance, with the gates as trained and changed."""
    cases = {
        f"{model.label}, as trained": [by_distance(one, "far") for one in runs("recall", model)]
        for model in GATE_MODELS
    }
    changes = [read_json(one.kept / "interventions.json") for one in runs("recall", FIXED_SKIP)]
    for change, name in (("no_decay", "without decay"), ("no_writes", "without writes")):
        cases[f"{FIXED_SKIP.label}, {name} over filler"] = [each[change] for each in changes]
    bins = [2**k for k in (9, 11, 12, 13, 14)]
    rows = []
    for name, tables in sorted(cases.items()):
        cells = []
        for first in bins:
            place = tables[0]["first"].index(first)
            accuracy, rms = (
                statistics.mean(each[score]["carried"][place] for each in tables)
                for score in ("accuracy", "state_rms")
            )
            cells.append(f"{accuracy:.1%}, {rms:.2f}")
        rows.append([name, *cells])
    return table(["", *(f"{first:,} – {2 * first - 1:,}" for first in bins)], rows)


def kept_per_block() -> str:
    """The least and the largest share of the state that the fixed gate keeps in a block."""
    kept = [
        read_json(one.kept / "interventions.json")["keep"] for one in runs("recall", FIXED_SKIP)
    ]
    return f"{min(map(min, kept)):.4f} to {max(map(max, kept)):.4f}"


def plot_by_distance(ax: Axes, seeds: Sequence[Experiment], split: str, score: str):
    """Plots a score by distance: the mean over seeds, and a band from minimum to maximum."""
    model, bins = seeds[0].model, by_distance(seeds[0], split)
    edges = [*bins["first"], bins["last"][-1] + 1]
    by_seed = [by_distance(one, split)[score]["carried"] for one in seeds]
    values = np.array(by_seed, float)  # None becomes NaN, which leaves a gap
    style = {"color": COLORS[model.name]}
    ax.stairs(values.mean(axis=0), edges, baseline=None, label=model.label, linewidth=1.6, **style)
    low, high = values.min(axis=0), values.max(axis=0)
    ax.stairs(high, edges, baseline=low, fill=True, alpha=0.15, **style)


def farther_figure(chance: float) -> Figure:
    """The figure of accuracy and RMS of the states by distance, in the split `farther`."""
    figure, [[left, right]] = new_figure(1, 2, panel=(3.5, 2.7))
    for ax, score in ((left, "accuracy"), (right, "state_rms")):
        for model in GATE_MODELS:
            plot_by_distance(ax, runs("recall", model), "farther", score)
        token_axis(ax)
        ax.set_xlabel("tokens from the start of the document")
    left.axhline(chance, color=GREY, linestyle=":", linewidth=1)
    left.set_ylabel("accuracy")
    left.set_ylim(0, 1.02)
    right.set_ylabel("RMS of the recurrent states")
    right.set_yscale("log")
    legend_above(figure, columns=3)
    return figure


def recall_figure(chance: float, reach: int) -> Figure:
    """The figure of accuracy by distance."""
    figure, [[ax]] = new_figure()
    for model in RECALL_MODELS:
        plot_by_distance(ax, runs("recall", model), "far", "accuracy")
    token_axis(ax)
    ax.axhline(chance, color=GREY, linestyle=":", linewidth=1)
    ax.axvline(reach, color=GREY, linestyle=":", linewidth=1)
    ax.text(reach * 1.5, 0.4, "reach of attention", color=GREY, fontsize=8)
    ax.text(16, chance + 0.015, "chance", color=GREY, fontsize=8)
    ax.set_xlabel("tokens from the start of the document")
    ax.set_ylabel("accuracy")
    ax.set_ylim(0, 1.02)
    legend_above(figure, columns=3)
    return figure


def plot_worth(ax: Axes, experiment: Experiment, **style: Any):
    """Plots the worth of the recurrent state over training, if the model has a state."""
    lines = metrics(experiment, "held_out")
    worth = [(line["step"], line["memory_worth"]) for line in lines if "memory_worth" in line]
    if worth:
        ax.plot(*zip(*worth, strict=True), **style)


def recall_training_figure(chance_bits: float) -> Figure:
    """The figure of training loss and worth of the recurrent state."""
    figure, [[left, right]] = new_figure(1, 2, panel=(3.5, 2.5))
    for model in (*RECALL_MODELS, LONG):
        for k, one in enumerate(runs("recall", model)):
            style = {"color": COLORS[model.name], "linewidth": 1.4}
            style |= {} if k else {"label": model.label}
            lines = metrics(one, "train")
            left.plot([x["step"] for x in lines], [x["bits_per_token"] for x in lines], **style)
            plot_worth(right, one, marker="o", markersize=3, **style)
    left.axhline(chance_bits, color=GREY, linestyle=":", linewidth=1)
    left.set_ylabel("loss, bits per answer")
    left.set_ylim(0, 6)
    right.set_ylabel("worth of the state, bits")
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.set_xlim(0)
    legend_above(figure, columns=3)
    return figure


# Real text


def tuned(group: str, model: Model) -> list[Experiment]:
    """The runs at each learning rate, in order."""
    return sorted(runs(group, model), key=lambda one: one.config.optimizer.learning_rate)


def best(group: str, model: Model) -> Experiment:
    """The run with the best learning rate, by its final bits per byte."""
    return min(tuned(group, model), key=lambda one: final(one, "bits_per_byte"))


def differences(group: str, one: Model, other: Model) -> str:
    """Differences in bits per byte, seed by seed."""
    pairs = zip(runs(group, one), runs(group, other), strict=True)
    return ", ".join(
        f"{final(a, 'bits_per_byte') - final(b, 'bits_per_byte'):+.3f}" for a, b in pairs
    )


def worth_of(experiments: Sequence[Experiment]) -> str:
    if not experiments[0].config.model.has_recurrent_state:
        return "–"
    return spread((final(one, "memory_worth") for one in experiments), "z.3f")


def tuning_table(group: str, models: Sequence[Model], rates: Sequence[float]) -> str:
    timed = (KEPT / group / "step_time.json").exists()
    header = ["model", "parameters", *["µs per token"] * timed, *(f"at {rate:g}" for rate in rates)]
    rows = []
    for model in models:
        if not tuned(group, model):
            continue
        bits = {one.run: f"{final(one, 'bits_per_byte'):.3f}" for one in tuned(group, model)}
        by_rate = [bits.get(str(rate), "–") for rate in rates]
        cost = [f"{microseconds_per_token(group, model):.0f}"] if timed else []
        chosen = best(group, model)
        rows.append(
            [model.label, f"{num_parameters(chosen):,}", *cost, *by_rate, worth_of([chosen])]
        )
    return table([*header, "worth of the state at the best"], rows)


def text_table(group: str, models: Sequence[Model]) -> str:
    header = ["model", "learning rate", "seeds", "bits per byte", "worth of the state", "minutes"]
    rows = []
    for model in models:
        if seeds := runs(group, model):
            bits = spread((final(one, "bits_per_byte") for one in seeds), ".3f")
            rate = f"{seeds[0].config.optimizer.learning_rate:g}"
            time = spread(map(minutes, seeds), ".1f")
            rows.append([model.label, rate, str(len(seeds)), bits, worth_of(seeds), time])
    return table(header, rows)


def mean_difference(group: str, one: Model, other: Model) -> str:
    """Mean of the differences in bits per byte by seed, and the half-width of its 95% interval."""
    pairs = list(zip(runs(group, one), runs(group, other), strict=True))
    values = [final(a, "bits_per_byte") - final(b, "bits_per_byte") for a, b in pairs]
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * error
    return f"{statistics.mean(values):+.3f} ± {half:.3f}"


def compared_table(group: str, models: Sequence[Model]) -> str:
    """Bits per byte on text, and the differences to the first model with the same seed."""
    header = ["model", "seeds", "bits per byte", "difference by seed", "mean", "worth of the state"]
    first, rows = models[0], []
    for model in models:
        seeds = runs(group, model)
        bits = spread((final(one, "bits_per_byte") for one in seeds), ".3f")
        against = ["–"] * 2
        if model != first:
            against = [each(group, model, first) for each in (differences, mean_difference)]
        rows.append([model.label, str(len(seeds)), bits, *against, worth_of(seeds)])
    return table(header, rows)


def training_bits(experiment: Experiment) -> float:
    """Bits per token in the second half of training."""
    lines = metrics(experiment, "train")
    return statistics.mean(line["bits_per_token"] for line in lines[len(lines) // 2 :])


def gates_by_distance() -> str:
    """Bits per token on text, in training and by distance, and the differences between gates."""
    fixed, gru = (runs("gates", model) for model in GATES_IN_SHORT_RUNS)
    scores = [training_bits]
    scores += [
        lambda one, ends=ends: mean_between(by_distance(one, "held_out"), "bits_per_token", *ends)
        for ends in itertools.pairwise(GATES_BOUNDS)
    ]
    bits = [([score(one) for one in fixed], [score(one) for one in gru]) for score in scores]
    differences = [[b - a for a, b in zip(*each, strict=True)] for each in bits]
    rows = [
        [FIXED_SKIP.label, *(spread(each, ".3f") for each, _ in bits)],
        [GRU_SKIP.label, *(spread(each, ".3f") for _, each in bits)],
        ["difference", *(spread(each, "+.3f") for each in differences)],
    ]
    return table(["bits per token", "in training", *columns(GATES_BOUNDS)], rows)


def changes_table(group: str) -> str:
    rows = []
    for model in PATCHED:
        if seeds := runs(group, model):
            bits = spread((final(one, "bits_per_byte") for one in seeds), ".3f")
            against = "–" if model == FIXED_SKIP else differences(group, model, FIXED_SKIP)
            rows.append([model.label, bits, against, worth_of(seeds)])
    return table(["model", "bits per byte", "difference by seed", "worth of the state"], rows)


def text_figure() -> Figure:
    """The figure of bits per byte by learning rate, and worth of the state over training."""
    figure, [[left, right]] = new_figure(1, 2, panel=(3.5, 2.7))
    for model in TEXT_MODELS:
        style = {"color": COLORS[model.name], "marker": "o", "markersize": 3.5, "linewidth": 1.2}
        if not (by_rate := tuned("tuning", model)):
            continue
        rates = [one.config.optimizer.learning_rate for one in by_rate]
        bits = [final(one, "bits_per_byte") for one in by_rate]
        left.plot(rates, bits, label=model.label, **style)
        for one in runs("text", model):
            plot_worth(right, one, **style)
    left.set_xscale("log")
    left.set_xticks(LEARNING_RATES, [f"{rate:g}" for rate in LEARNING_RATES])
    left.minorticks_off()
    left.set_xlabel("learning rate")
    left.set_ylabel("bits per byte")
    right.set_xlabel("step")
    right.set_ylabel("worth of the state, bits")
    right.set_xlim(0)
    right.axhline(0, color=GREY, linestyle=":", linewidth=1)
    legend_above(figure, columns=3)
    return figure


def longer_figure() -> Figure:
    """The figure of bits per byte and worth of the state in longer training runs."""
    figure, [[left, right]] = new_figure(1, 2, panel=(3.5, 2.7))
    for model in TEXT_MODELS[:2]:
        for k, one in enumerate(runs("longer", model)):
            lines = metrics(one, "held_out")
            steps = [line["step"] for line in lines]
            style = {"color": COLORS[model.name], "linewidth": 1.2}
            label = {} if k else {"label": model.label}
            left.plot(steps, [line["bits_per_byte"] for line in lines], **style, **label)
            plot_worth(right, one, **style)
    left.set_ylabel("bits per byte")
    right.set_ylabel("worth of the state, bits")
    right.axhline(0, color=GREY, linestyle=":", linewidth=1)
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.set_xlim(0)
    legend_above(figure, columns=2)
    return figure


# More lanes than rows


def late_training_bits(experiment: Experiment, step: int) -> float:
    """Bits per byte in training, over the last 100 steps before a step."""
    lines = metrics(experiment, "train")
    return statistics.mean(x["bits_per_byte"] for x in lines if step - 100 < x["step"] <= step)


def by_lanes() -> list[Experiment]:
    """Default runs with seed 0 and different numbers of lanes, in order."""
    default, *_ = runs("default", FIXED_SKIP)
    return sorted([*runs("lanes", FIXED_SKIP), default], key=lambda one: one.config.train.num_lanes)


def lanes_table() -> str:
    """Losses in the middle and at the end of runs with different numbers of lanes."""
    header = ["lanes", "tokens per lane"]
    experiments = by_lanes()
    middle, end = (line["step"] for line in metrics(experiments[0], "held_out"))
    for step in (middle, end):
        header += [f"training, step {step:,}", f"held out, step {step:,}"]
    rows = []
    for one in experiments:
        train = one.config.train
        tokens = train.num_steps * train.batch_size * train.segment_length
        cells = [f"{train.num_lanes:,}", f"{tokens // train.num_lanes:,}"]
        for line in metrics(one, "held_out"):
            training = late_training_bits(one, line["step"])
            cells += [f"{training:.3f}", f"{line['bits_per_byte']:.3f}"]
        rows.append([*cells, worth_of([one])])
    return table([*header, "worth of the state"], rows)


def rates_table() -> str:
    """Bits per byte of the default run, by learning rate."""
    default, *_ = runs("default", FIXED_SKIP)
    rates = sorted((*OTHER_RATES, default.config.optimizer.learning_rate))
    rows = []
    for model in (FIXED_SKIP, MODERN):
        experiments = [*runs("rates", model), runs("default", model)[0]]
        bits = {
            one.config.optimizer.learning_rate: f"{final(one, 'bits_per_byte'):.3f}"
            for one in experiments
        }
        rows.append([model.label, *(bits.get(rate, "–") for rate in rates)])
    return table(["model", *(f"at {rate:g}" for rate in rates)], rows)


def relative_time(model: Model) -> float:
    """Time of a step, relative to FIXED_SKIP."""
    return microseconds_per_token("parts", model) / microseconds_per_token("parts", FIXED_SKIP)


def parts_table() -> str:
    """The modern configuration, and it without each of its parts, on two corpora."""
    corpora = {"parts": "standard library", "parts_large": "Ansible"}
    header = ["model", "parameters", "time of a step", "steps"]
    header += [text for name in corpora.values() for text in (name, "difference")]
    rows = []
    for model in PARTS:
        one, *_ = runs("parts", model)
        cells = [f"{num_parameters(one):,}", f"{relative_time(model):.2f}"]
        cells.append(str(one.config.train.num_steps))
        for group in corpora:
            bits = (final(each, "bits_per_byte") for each in runs(group, model))
            difference = "–" if model == MODERN else mean_difference(group, model, MODERN)
            cells += [spread(bits, ".3f"), difference]
        rows.append([model.label, *cells])
    return table(header, rows)


def lanes_figure() -> Figure:
    """Training and held-out loss by step, for each number of lanes."""
    figure, [[ax]] = new_figure()
    for one in by_lanes():
        color = LANES_COLORS[one.config.train.num_lanes]
        lines = [line for line in metrics(one, "train") if line["step"] % 100 == 0]
        steps = [line["step"] for line in lines]
        training = [late_training_bits(one, step) for step in steps]
        ax.plot(steps, training, color=color, linewidth=1.2)
        held_out = [(x["step"], x["bits_per_byte"]) for x in metrics(one, "held_out")]
        label = f"{one.config.train.num_lanes:,} lanes"
        ax.plot(*zip(*held_out, strict=True), "o:", color=color, markersize=4, label=label)
    ax.set_xlabel("step")
    ax.set_ylabel("bits per byte")
    ax.set_xlim(0)
    ax.set_ylim(1.2, 2.6)
    legend_above(figure, columns=4)
    return figure


# The page


def page() -> str:
    recall = runs("recall", FIXED_SKIP)[0].config
    text, tuning = (runs(group, FIXED_SKIP)[0].config for group in ("text", "tuning"))
    [long] = runs("recall", LONG)
    long_low, long_high = long.config.data.recall_filler
    low, high = recall.data.recall_filler
    tokens = text.train.batch_size * text.train.segment_length
    longer, changes_longer = (
        runs(group, FIXED_SKIP)[0].config for group in ("longer", "changes_longer")
    )
    gates = runs("gates", FIXED_SKIP)[0].config
    gates_tokens = gates.train.batch_size * gates.train.segment_length
    gpu = runs("gpu", FIXED_SKIP)[0].config
    gpu_short = runs("gpu_short", FIXED_SKIP)[0].config
    lanes = runs("lanes", FIXED_SKIP)[0].config
    fixed, modern = (runs("default", model)[0] for model in (FIXED_SKIP, MODERN))
    parts_seeds = len(runs("parts", MODERN))
    again = [best("gpu_short", FIXED_SKIP), *runs("gpu_again", FIXED_SKIP)]
    gpu_tokens = gpu.train.batch_size * gpu.train.segment_length
    by_group = {
        f"{group}_commands": "\n".join(
            one.line for one in EXPERIMENTS if one.group == group and one.is_there
        )
        for group in {one.group for one in EXPERIMENTS}
    }
    return TEMPLATE.read_text(encoding="utf-8").format(
        facts=recall.data.recall_facts,
        low=low,
        high=f"{high:,}",
        far=f"{SPLITS['far'][1] * high:,}",
        values=recall.data.recall_values,
        chance=f"{1 / recall.data.recall_values:.2%}",
        layers=recall.model.num_layers,
        width=recall.model.embedding_size,
        window=recall.model.window_length,
        reach=recall.model.num_layers * recall.model.window_length,
        tokens=f"{recall.train.batch_size * recall.train.segment_length:,}",
        segment=recall.train.segment_length,
        steps=f"{recall.train.num_steps:,}",
        recall_minutes=spread(map(minutes, runs("recall", FIXED_SKIP)), ".1f"),
        recall_table=recall_table(),
        farther=f"{SPLITS['farther'][1] * high:,}",
        farther_factor=SPLITS["farther"][1],
        farther_table=farther_table(),
        kept_per_block=kept_per_block(),
        interventions_table=interventions_table(),
        gates_table=compared_table("gates", GATES_IN_SHORT_RUNS),
        default_table=text_table("default", DEFAULT_MODELS),
        rates_table=rates_table(),
        gates_by_distance=gates_by_distance(),
        gates_history=f"{gates.train.num_steps * gates_tokens // gates.train.lanes:,}",
        long_low=long_low,
        long_high=f"{long_high:,}",
        long_accuracy=f"{final(long, 'accuracy'):.1%}",
        long_worth=f"{final(long, 'memory_worth'):z.3f}",
        text_tokens=f"{tokens:,}",
        text_segment=text.train.segment_length,
        text_window=text.model.window_length,
        text_layers=text.model.num_layers,
        text_width=text.model.embedding_size,
        text_steps=text.train.num_steps,
        text_all=f"{tokens * text.train.num_steps / 1e6:.2f}",
        tuning_steps=tuning.train.num_steps,
        tuning_all=f"{tokens * tuning.train.num_steps / 1e6:.2f}",
        tuning_table=tuning_table("tuning", (*TEXT_MODELS, *ROWS), LEARNING_RATES),
        text_table=text_table("text", TEXT_MODELS),
        differences=differences("text", *TEXT_MODELS[:2]),
        large_table=text_table("large", TEXT_MODELS),
        text_first=f"{final(runs('text', FIXED_SKIP)[0], 'bits_per_byte'):.3f}",
        longer_table=text_table("longer", TEXT_MODELS),
        longer_differences=differences("longer", *TEXT_MODELS[:2]),
        longer_steps=f"{longer.train.num_steps:,}",
        longer_all=f"{tokens * longer.train.num_steps / 1e6:.1f}",
        changes_table=changes_table("changes"),
        changes_longer_table=changes_table("changes_longer"),
        changes_longer_steps=f"{changes_longer.train.num_steps:,}",
        changes_before=f"{final(runs('tuning', FIXED_SKIP)[1], 'bits_per_byte'):.3f}",
        changes_first=f"{final(runs('changes', FIXED_SKIP)[0], 'bits_per_byte'):.3f}",
        gpu_layers=gpu.model.num_layers,
        gpu_width=gpu.model.embedding_size,
        gpu_window=gpu.model.window_length,
        gpu_segment=gpu.train.segment_length,
        gpu_rows=gpu.train.batch_size,
        gpu_steps=gpu.train.num_steps,
        gpu_all=f"{gpu_tokens * gpu.train.num_steps / 1e6:.1f}",
        gpu_short_table=tuning_table("gpu_short", CHANGES, GPU_RATES),
        gpu_table=text_table("gpu", GPU_MODELS),
        gpu_differences=differences("gpu", *GPU_MODELS[:2]),
        gpu_short_steps=gpu_short.train.num_steps,
        gpu_again=spread((final(one, "bits_per_byte") for one in again), ".3f"),
        lanes_table=lanes_table(),
        selective_table=compared_table("default", (FIXED_SKIP, SELECTIVE_SKIP)),
        modern_size=f"{num_parameters(modern) / num_parameters(fixed):.1f}",
        modern_time=f"{relative_time(MODERN):.2f}",
        parts_table=parts_table(),
        parts_seeds=parts_seeds,
        lanes_steps=f"{lanes.train.num_steps:,}",
        lanes_tokens=f"{lanes.train.batch_size * lanes.train.segment_length:,}",
        rotary_gpu=f"{final(runs('gpu_short', ROTARY)[0], 'bits_per_byte'):.3f}",
        wide_differences=differences("wide", ROTARY, FIXED_SKIP),
        **results_time.numbers(),
        **by_group,
    )


def figures() -> dict[str, Figure]:
    """The figures, by file name."""
    config = runs("recall", FIXED_SKIP)[0].config
    values = config.data.recall_values
    reach = config.model.num_layers * config.model.window_length
    return {
        "recall.png": recall_figure(1 / values, reach),
        "recall_farther.png": farther_figure(1 / values),
        "recall_training.png": recall_training_figure(math.log2(values)),
        "text.png": text_figure(),
        "longer.png": longer_figure(),
        "lanes.png": lanes_figure(),
        "time_to_quality.png": results_time.figure(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    for name, figure in figures().items():
        (KEPT / name).write_bytes(png(figure))


if __name__ == "__main__":
    main()
