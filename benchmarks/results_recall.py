"""Tables and figures of docs/results.md about the task for memory."""

import itertools
import statistics
from collections.abc import Sequence

import numpy as np
from experiment import Experiment
from experiments import FIXED_SKIP, GATE_MODELS, LONG, RECALL_MODELS
from results_runs import (
    COLORS,
    by_distance,
    columns,
    mean_between,
    metrics,
    microseconds_per_token,
    num_parameters,
    plot_worth,
    read_json,
    runs,
    spread,
    table,
)

from block_recurrent.reporting.plots import GREY, Axes, Figure, legend_above, new_figure, token_axis

BOUNDS = (
    0,
    64,
    128,
    2048,
    4096,
    8192,
    2**31,
)  # of distances in the table; they coincide with bounds of bins
FARTHER_BOUNDS = (64, *(2**k for k in range(11, 17)), 2**31)


def accuracies(seeds: Sequence[Experiment], split: str, bounds: Sequence[int]) -> list[str]:
    """Accuracy between the bounds."""
    bins = [by_distance(one, split) for one in seeds]
    return [
        spread((mean_between(each, "accuracy", *ends) for each in bins), ".1%")
        for ends in itertools.pairwise(bounds)
    ]


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
