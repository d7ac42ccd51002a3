"""Matplotlib figures, without the global state of pyplot."""

import io
from typing import Any

import numpy as np
from jaxtyping import Float

from block_recurrent.errors import UserError

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
except ImportError as error:
    raise UserError(
        "plots need matplotlib: pip install matplotlib (or this package with its extra [plots])"
    ) from error

# Okabe and Ito's colours, which colour-blind readers can distinguish.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#777777"


def new_figure(rows: int = 1, columns: int = 1, *, panel: tuple[float, float] = (7.0, 3.4)):
    """Make a figure with axes ``[rows, columns]``; `panel` is the size of each in inches."""
    width, height = panel
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend_above(figure: Figure, columns: int | None = None):
    """Add one legend for all axes above the figure, in a single row unless `columns` is given."""
    labelled = {}
    for ax in figure.axes:
        labelled |= {text: line for line, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    columns = columns or len(labelled)
    figure.legend(
        labelled.values(), labelled, loc="outside upper left", ncols=columns, frameon=False
    )


def png(figure: Figure) -> bytes:
    """The figure as PNG, at a resolution that suits screen and print."""
    buffer = io.BytesIO()
    # Leave out the program's version, so that the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=160, metadata={"Software": None})
    return buffer.getvalue()


def token_axis(ax: Axes):
    """Make the x axis a logarithmic axis of token counts: 1, 4, 16, … 1k, 4k."""
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(LogLocator(base=4, numticks=20))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x)))


def thousands(x: float) -> str:
    """Formats 1024 as "1k", 2²⁰ as "1M"."""
    for size, unit in ((2**20, "M"), (2**10, "k")):
        if x >= size:
            return f"{x / size:g}{unit}"
    return f"{x:g}"


def quantile_band(
    ax: Axes, x: Any, quantiles: Float[np.ndarray, "5 M"], color: str, label: str, marker: str = ""
):
    """Plot the median and two bands: between the quartiles, and between the outer quantiles."""
    low, lower_quartile, median, upper_quartile, high = quantiles
    ax.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    ax.fill_between(x, lower_quartile, upper_quartile, color=color, alpha=0.28, linewidth=0)
    ax.plot(x, median, color=color, label=label, marker=marker)
