"""The figures of an analysis, each of one recurrent layer."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from block_recurrent.analysis.tracing import QUANTILES, gate_names
from block_recurrent.reporting.plots import (
    BLUE,
    ORANGE,
    Figure,
    legend_above,
    new_figure,
    quantile_band,
)

COLORS = {"keep": BLUE, "take": ORANGE}
LABELS = {"keep": "keep: multiplies the old state", "take": "take: multiplies the new values"}
MAX_LABELS = 80  # with more token labels, an axis is not legible


def all_figures(arrays: Mapping[str, np.ndarray], labels: Sequence[str]) -> dict[str, Figure]:
    """All figures of one layer, by file name without its ending.

    Args:
      arrays: the layer's arrays, listed in `tracing.ARRAYS`.
      labels: the input tokens of the last two blocks.
    """
    kinds = "states_to_tokens", "states_to_states"
    last = {kind: arrays[kind][-1].mean(axis=0) for kind in kinds}
    return {
        "gates": gate_values(arrays),
        "states_to_tokens": heat_map(last["states_to_tokens"], "token read", "state", labels),
        "states_to_states": heat_map(last["states_to_states"], "state read", "state"),
    }


def gate_values(arrays: Mapping[str, np.ndarray]) -> Figure:
    """Left: histogram of each gate's values. Right: their quantiles over units, by state."""
    names = gate_names(arrays)
    sides = distinct_multipliers(arrays)
    figure, axes = new_figure(len(names), 2, panel=(4.5, 3.0))
    for (left, right), gate in zip(axes, names, strict=True):
        for name in sides:
            color = COLORS[name]
            counts = arrays[f"{gate}_{name}_histogram"]
            shares = counts / counts.sum()
            left.stairs(shares, arrays["gate_edges"], color=color, label=LABELS[name])
            quantiles = np.quantile(arrays[f"{gate}_{name}"], QUANTILES, axis=1)
            quantile_band(right, np.arange(quantiles.shape[1]), quantiles, color, LABELS[name])
        left.set(xlabel=f"value of the {gate.replace('_', ' ')}", ylabel="share of values")
        right.set(xlabel="state", ylabel=gate.replace("_", " "), ylim=(-0.02, 1.02))
    legend_above(figure)
    return figure


def distinct_multipliers(values: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The multipliers to show: only 'keep' if take = 1 − keep, else both."""
    pairs = {gate: (values[f"{gate}_keep"], values[f"{gate}_take"]) for gate in gate_names(values)}
    # `values` may be quantiles, and those of 1 − keep are in reverse order: compare sorted values.
    mirrored = all(np.allclose(np.sort(keep), np.sort(1 - take)) for keep, take in pairs.values())
    return ("keep",) if mirrored else ("keep", "take")


def gates_over_training(
    steps: Sequence[int], values: Mapping[str, Float[np.ndarray, "C Q"]]
) -> Figure:
    """Plot quantiles of each gate's values over states and units at every checkpoint.

    Args:
      steps: steps of the checkpoints.
      values: '<gate>_keep' and '<gate>_take' → their `tracing.QUANTILES` at each checkpoint.
    """
    names = gate_names(values)
    figure, axes = new_figure(len(names), panel=(7.0, 2.8))
    for ax, gate in zip(axes[:, 0], names, strict=True):
        for name in distinct_multipliers(values):
            quantile_band(
                ax, steps, values[f"{gate}_{name}"].T, COLORS[name], LABELS[name], marker="o"
            )
        ax.set(ylabel=gate.replace("_", " "), ylim=(-0.02, 1.02), xticks=steps)
    axes[-1, 0].set_xlabel("step")
    legend_above(figure)
    return figure


def heat_map(
    values: Float[np.ndarray, "rows columns"],
    across: str,
    down: str,
    labels: Sequence[str] = (),
) -> Figure:
    """Plot attention as brightness; `labels` name the columns if there are not too many."""
    figure, [[ax]] = new_figure(panel=(10.0, 4.2) if labels else (5.6, 4.6))
    style = {"aspect": "auto", "cmap": "viridis", "interpolation": "nearest"}
    # Uniform attention appears at most half as bright as the maximum of the scale.
    most = max(values.max(), 2 * values.mean())
    image = ax.imshow(values, vmin=0, vmax=most, **style)
    ax.set(xlabel=across, ylabel=down)
    if 0 < len(labels) <= MAX_LABELS:
        angle = 90 if max(map(len, labels)) > 1 else 0
        ax.set_xticks(range(len(labels)), labels, fontsize=8, family="monospace", rotation=angle)
        ax.tick_params("x", length=0)
    figure.colorbar(image, label="attention, mean over heads", shrink=0.9, pad=0.02)
    return figure
