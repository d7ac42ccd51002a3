"""Tables and figure of docs/results.md about what memory is worth on long documents.

They compare models document by document, as measured by benchmarks/score_documents.py. Intervals
are 95% bootstrap intervals: seeds and documents are drawn again with replacement, the same ones for
both models.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from experiment import Experiment, Model
from experiments import MEMORY_MODELS, SLIDE_5
from results_runs import (
    COLORS,
    GREY,
    microseconds_per_token,
    num_parameters,
    read_json,
    runs,
    table,
)
from score_documents import DISTANCES, POSITIONS

from block_recurrent.reporting.plots import Axes, Figure, legend_above, new_figure

DRAWS = 4000


class Scores(NamedTuple):
    """What was counted in each document, and its bits with each seed.

    Attributes:
      bits: ``[seeds, documents]``
      counts: bytes, or identifiers; ``[documents]``
    """

    bits: np.ndarray
    counts: np.ndarray


class Difference(NamedTuple):
    """A mean difference, and its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} – {self.high:+.3f})"


@functools.cache
def documents(experiment: Experiment) -> list[dict]:
    """The documents, in the order of their names."""
    content = read_json(experiment.kept / "documents.json")
    return [content[name] for name in sorted(content)]


def scores(model: Model, chosen: Callable[[dict], tuple[float, float]]) -> Scores:
    """Scores of a model; `chosen` gives the bits and the count of a document."""
    each = [[chosen(one) for one in documents(run)] for run in runs("memory", model)]
    values = np.array(each, float)
    return Scores(values[..., 0], values[0, :, 1])


def whole(document: dict) -> tuple[float, float]:
    return sum(document["bits"]), sum(document["bytes"])


def at_position(index: int) -> Callable[[dict], tuple[float, float]]:
    return lambda document: (document["bits"][index], document["bytes"][index])


def of_identifiers(index: int) -> Callable[[dict], tuple[float, float]]:
    def chosen(document: dict) -> tuple[float, float]:
        found = document["identifiers"]
        return found["bits"][index], found["count"][index]

    return chosen


def mean(one: Scores) -> float:
    return float(one.bits.mean(axis=0).sum() / one.counts.sum())


def difference(one: Scores, other: Scores) -> Difference:
    """How many more bits `one` has per count, over the seeds that both have."""
    seeds = min(len(one.bits), len(other.bits))
    bits, counts = one.bits[:seeds] - other.bits[:seeds], one.counts
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        rows = rng.integers(seeds, size=seeds)
        columns = rng.integers(len(counts), size=len(counts))
        drawn.append(bits[rows][:, columns].mean(axis=0).sum() / counts[columns].sum())
    value = bits.mean(axis=0).sum() / counts.sum()
    return Difference(float(value), *map(float, np.quantile(drawn, (0.025, 0.975))))


def trained() -> list[Model]:
    """The models with runs; the first of them is the one that others are compared with."""
    return [model for model in MEMORY_MODELS if runs("memory", model)]


def memory_table() -> str:
    """Cost, bits per byte and difference to the model with a layer more."""
    header = ["model", "parameters", "time of a step", "steps", "seeds", "bits per byte"]
    header += ["difference", "by seed", "better on"]
    reference, rows = scores(SLIDE_5, whole), []
    for model in trained():
        one, found = runs("memory", model)[0], scores(model, whole)
        time = microseconds_per_token("memory", model) / microseconds_per_token("memory", SLIDE_5)
        row = [model.label, f"{num_parameters(one):,}", f"{time:.2f}"]
        row += [f"{one.config.train.num_steps:,}", str(len(found.bits)), f"{mean(found):.3f}"]
        if model == SLIDE_5:
            rows.append([*row, "–", "–", "–"])
            continue
        pairs = list(zip(found.bits, reference.bits, strict=False))
        by_seed = ", ".join(f"{(a - b).sum() / found.counts.sum():+.3f}" for a, b in pairs)
        better = np.mean([a - b for a, b in pairs], axis=0) < 0
        cells = [str(difference(found, reference)), by_seed, f"{better.sum()} of {len(better)}"]
        rows.append([*row, *cells])
    return table(header, rows)


def ranges(starts: Sequence[int]) -> list[str]:
    """The names of bins."""
    names = [f"{a:,} – {b - 1:,}" for a, b in itertools.pairwise(starts)]
    return [*names, f"from {starts[-1]:,}"]


def binned_table(header: Sequence[str], bins: Sequence[Callable]) -> str:
    """Each model's mean in each bin and, below, its difference to the reference."""
    reference, rows = [scores(SLIDE_5, chosen) for chosen in bins], []
    for model in trained():
        found = [scores(model, chosen) for chosen in bins]
        rows.append([model.label, *(f"{mean(one):.3f}" for one in found)])
        if model != SLIDE_5:
            pairs = zip(found, reference, strict=True)
            rows.append(["difference", *(str(difference(a, b)) for a, b in pairs)])
    return table(header, rows)


def positions_table() -> str:
    bins = [at_position(index) for index in range(len(POSITIONS))]
    return binned_table(["bits per byte", *ranges(POSITIONS)], bins)


def identifiers_table() -> str:
    bins = [of_identifiers(index) for index in range(1 + len(DISTANCES))]
    return binned_table(["bits per identifier", "new", *ranges(DISTANCES)], bins)


def memory_figure() -> Figure:
    """The figure of differences to the sliding window with a layer more."""
    figure, [[left, right]] = new_figure(1, 2, panel=(3.5, 2.7))
    positions = [at_position(index) for index in range(len(POSITIONS))]
    identifiers = [of_identifiers(index) for index in range(1 + len(DISTANCES))]
    plot_differences(left, positions, ranges(POSITIONS))
    plot_differences(right, identifiers, ["new", *ranges(DISTANCES)])
    left.set_xlabel("position in the document, tokens")
    left.set_ylabel("bits per byte")
    right.set_xlabel("tokens since the identifier's last occurrence")
    right.set_ylabel("bits per identifier")
    legend_above(figure, columns=3)
    return figure


def plot_differences(ax: Axes, bins: Sequence[Callable], names: Sequence[str]):
    """Plots differences to the reference with their intervals; below 0 is better."""
    shown = [model for model in trained() if model != SLIDE_5]
    for place, model in enumerate(shown):
        found = [difference(scores(model, one), scores(SLIDE_5, one)) for one in bins]
        low = [one.mean - one.low for one in found]
        high = [one.high - one.mean for one in found]
        x = np.arange(len(bins)) + 0.14 * (place - (len(shown) - 1) / 2)
        style = {"color": COLORS[model.name], "fmt": "o", "markersize": 4, "capsize": 2}
        ax.errorbar(x, [one.mean for one in found], [low, high], label=model.label, **style)
    ax.axhline(0, color=GREY, linestyle=":", linewidth=1)
    ax.set_xticks(range(len(names)), [name.replace(" – ", "–\n") for name in names], fontsize=7)
