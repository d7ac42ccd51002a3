"""The charts of an evaluation report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from block_recurrent.console.lossy import lossy_mark
from block_recurrent.evaluation.memory_worth import MEMORIES
from block_recurrent.model.config import ModelConfig
from block_recurrent.reporting.charts import Chart, Line
from block_recurrent.reporting.metrics_log import HELD_OUT

LABELS = {
    "carried": "state carried",
    "cleared": "state cleared at every segment",
    "swapped": "another document's state",
}
UNITS = {
    "bits_per_token": "bits per token",
    "accuracy": "accuracy",
    "state_rms": "RMS of the recurrent states",
}
CAPTIONS = {
    "bits_per_token": "Loss by position in the document. The dotted lines mark how far attention "
    "reaches in one layer (W) and through all layers together. Information from farther back can "
    "only come from the recurrent state.",
    "accuracy": "Accuracy by position in the document: how often the token was the most likely "
    "one.",
    "state_rms": "Root mean square of the recurrent states after the segments that end at this "
    "position. If the states keep growing, later writes may drown out what was stored.",
    "worth": "Memory worth by position: the bits per token lost when the recurrent state is "
    "cleared at every segment of {} tokens, or replaced by that of another document. Keys and "
    "values of the last window are kept. At zero the model does not use its state.",
    "history": "Bits per byte over training. Held-out documents are scored at every evaluation.",
    "worth_history": "Memory worth over training: the bits per token lost when the recurrent state "
    "is cleared at every segment.",
}


def score_by_distance(by_distance: Mapping[str, Any], score: str, model: ModelConfig) -> Chart:
    """A score over the distance from the start of the document, one line per memory.

    Args:
      by_distance: a `distance_table`.
      score: 'bits_per_token', 'accuracy' or 'state_rms'.
      model: configuration of the model, for the reach of its attention.
    """
    return _by_distance(by_distance, by_distance[score], CAPTIONS[score], UNITS[score], model)


def memory_worth_by_distance(
    by_distance: Mapping[str, Any], model: ModelConfig, segment_length: int
) -> Chart:
    """The bits per token lost when the state is cleared or swapped."""
    bits = {name: np.array(each, float) for name, each in by_distance["bits_per_token"].items()}
    carried = bits.pop("carried")
    lost = {name: (each - carried).tolist() for name, each in bits.items()}
    caption = CAPTIONS["worth"].format(f"{segment_length:,}")
    return _by_distance(by_distance, lost, caption, "bits per token lost", model)


def training_history(history: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Bits per byte over the steps of training, and memory worth if it was logged."""
    lines = []
    for split, label, style, marker in (
        ("train", "train", 7, None),
        (HELD_OUT["raw"], "held-out", 0, 0),
        (HELD_OUT["averaged"], "held-out, averaged weights", 2, 1),
    ):
        x, y = _series(history, split, "bits_per_byte")
        if x:
            lines.append(Line(label, x, y, style, marker))
    unit = "bits per byte" + (", not comparable" if any(map(lossy_mark, history)) else "")
    charts = [Chart(CAPTIONS["history"], "step", unit, lines)] if lines else []
    if any(line.get("memory_worth") is not None for line in history):
        worth = Line("memory worth", *_series(history, HELD_OUT["raw"], "memory_worth"), 1, 0)
        charts.append(Chart(CAPTIONS["worth_history"], "step", "bits per token lost", [worth]))
    return charts


def _by_distance(
    by_distance: Mapping[str, Any],
    values: Mapping[str, Sequence[float | None]],
    caption: str,
    unit: str,
    model: ModelConfig,
) -> Chart:
    """A step per bin. Tokens are numbered from 1, because the axis is logarithmic."""
    edges = [first + 1 for first in [*by_distance["first"], by_distance["last"][-1] + 1]]
    lines = [
        Line(LABELS[memory], edges, [*each, each[-1]], MEMORIES.index(memory))
        for memory, each in values.items()
    ]
    label = "position of the token in its document"
    return Chart(caption, label, unit, lines, is_log=True, is_stepped=True, marks=_reach(model))


def _reach(model: ModelConfig) -> dict[str, int]:
    """How far attention reaches: W tokens in one layer, and W more with every layer above."""
    if model.segment_is_context:
        return {}
    return {"W": model.window_length, "layers · W": model.num_layers * model.window_length}


def _series(history: Sequence[Mapping[str, Any]], split: str, name: str):
    """Steps and values of a metric; None stands for a value that was not finite."""
    lines = [line for line in history if line["split"] == split and name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]
