"""The figures of an evaluation report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from block_recurrent.console.lossy import lossy_mark
from block_recurrent.model.config import ModelConfig
from block_recurrent.reporting.metrics_log import HELD_OUT
from block_recurrent.reporting.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    Axes,
    Figure,
    legend_above,
    new_figure,
    token_axis,
)

COLORS = {"carried": BLUE, "cleared": ORANGE, "swapped": GREEN}
LABELS = {
    "carried": "state carried",
    "cleared": "state cleared at every segment",
    "swapped": "another document's state",
}


def score_by_distance(by_distance: Mapping[str, Any], score: str, model: ModelConfig) -> Figure:
    """Plot a score over the distance from the start of the document, one line per memory.

    Args:
      by_distance: a `distance_table`.
      score: 'bits_per_token', 'accuracy' or 'state_rms'.
      model: configuration of the model, for the reach of its attention.
    """
    figure, [[ax]] = new_figure()
    for memory, values in by_distance[score].items():
        _stairs(ax, by_distance, values, memory)
    _mark_reach(ax, model)
    labels = {"bits_per_token": "bits per token", "state_rms": "RMS of the recurrent states"}
    ax.set_ylabel(labels.get(score, score))
    if len(by_distance["bits_per_token"]) > 1:
        legend_above(figure)
    return figure


def memory_worth_by_distance(by_distance: Mapping[str, Any], model: ModelConfig) -> Figure:
    """Plot the bits per token lost when the state is cleared or swapped."""
    figure, [[ax]] = new_figure()
    ax.axhline(0, color=GREY, linewidth=0.8)
    carried = np.array(by_distance["bits_per_token"]["carried"], float)
    for memory, bits in by_distance["bits_per_token"].items():
        if memory != "carried":
            _stairs(ax, by_distance, np.array(bits, float) - carried, memory)
    _mark_reach(ax, model)
    ax.set_ylabel("bits per token lost")
    legend_above(figure)
    return figure


def training_history(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Plot bits per byte over the steps of training, and memory worth if it was logged."""
    has_worth = any(line.get("memory_worth") is not None for line in history)
    figure, axes = new_figure(1 + has_worth, panel=(7.0, 2.8))
    for split, label, color, mark in (
        ("train", "train", GREY, ""),
        (HELD_OUT["raw"], "held-out", BLUE, "o"),
        (HELD_OUT["averaged"], "held-out, averaged weights", GREEN, "o"),
    ):
        x, y = _series(history, split, "bits_per_byte")
        if x:
            axes[0, 0].plot(x, y, color=color, marker=mark, label=label)
    comparable = not any(map(lossy_mark, history))
    axes[0, 0].set_ylabel("bits per byte" if comparable else "bits per byte,\nnot comparable")
    legend_above(figure)
    if has_worth:
        ax = axes[1, 0]
        ax.axhline(0, color=GREY, linewidth=0.8)
        ax.plot(*_series(history, "held_out", "memory_worth"), color=ORANGE, marker="o")
        ax.set_ylabel("memory worth,\nbits per token")
        ax.sharex(axes[0, 0])
    axes[-1, 0].set_xlabel("step")
    return figure


def _stairs(ax: Axes, by_distance: Mapping[str, Any], values: Any, memory: str):
    """Draw a step per bin. Tokens are numbered from 1, because the axis is logarithmic."""
    edges = np.array([*by_distance["first"], by_distance["last"][-1] + 1]) + 1
    style = {"color": COLORS[memory], "label": LABELS[memory], "linewidth": 1.6}
    values = np.array(values, float)  # None becomes NaN, which leaves a gap
    ax.stairs(values, edges, baseline=None, zorder=2 + (memory == "carried"), **style)


def _mark_reach(ax: Axes, model: ModelConfig):
    """Mark how far attention reaches: W tokens in one layer, and W more with every layer above."""
    token_axis(ax)
    ax.set_xlabel("position of the token in its document")
    if model.segment_is_context:
        return
    reach = {"W": model.window_length, "layers · W": model.num_layers * model.window_length}
    for name, position in reach.items():
        if position < ax.get_xlim()[1]:
            ax.axvline(position, color=GREY, linestyle=":", linewidth=1)
            transform = ax.get_xaxis_transform()
            ax.text(position * 1.06, 1, name, transform=transform, color=GREY, fontsize=8, va="top")


def _series(history: Sequence[Mapping[str, Any]], split: str, name: str):
    """Steps and values of a metric; null stands for a value that was not finite."""
    lines = [line for line in history if line["split"] == split and name in line]
    values = [math.nan if line[name] is None else line[name] for line in lines]
    return [line["step"] for line in lines], values
