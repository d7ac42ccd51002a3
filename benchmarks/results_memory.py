"""Tables and figure of docs/results.md about what memory is worth on long documents.

They compare models document by document, as measured by benchmarks/score_documents.py. Intervals
are 95% bootstrap intervals: seeds and directories, each with its documents, are drawn again with
replacement, the same ones for both models.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from experiment import KEPT, Experiment, Model
from experiments import (
    FIXED_SKIP,
    LONG_TERM,
    MEMORY_SEEDS,
    SLIDE_4,
    SLIDE_5,
    WIDE_SEEDS,
    WIDE_STEPS,
    XL_5,
)
from results_runs import (
    COLORS,
    columns,
    microseconds_per_token,
    num_parameters,
    read_json,
    runs,
    table,
    worth_of,
)
from score_documents import DISTANCES, POSITIONS, directory_of

from block_recurrent.reporting.plots import GREY, Axes, Figure, legend_above, new_figure

DRAWS = 4000


class Scores(NamedTuple):
    """What was counted in each document, and its bits with each seed.

    Attributes:
      seeds: of the training
      bits: ``[seeds, documents]``
      counts: bytes, or identifiers; ``[documents]``
      directories: number of the directory of each document; ``[documents]``
    """

    seeds: tuple[str, ...]
    bits: np.ndarray
    counts: np.ndarray
    directories: np.ndarray


class Difference(NamedTuple):
    """A mean difference, and its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} – {self.high:+.3f})"


@functools.cache
def documents(experiment: Experiment) -> dict[str, dict]:
    """The documents, in the order of their names."""
    return dict(sorted(read_json(experiment.kept / "documents.json").items()))


def directories(experiment: Experiment) -> np.ndarray:
    """The number of the directory of each document, in the same order."""
    names = map(directory_of, documents(experiment))
    return np.unique(list(names), return_inverse=True)[1]


def scores(
    model: Model, chosen: Callable[[dict], tuple[float, float]], group: str = "memory"
) -> Scores:
    """Scores of a model; `chosen` gives the bits and the count of a document."""
    found = runs(group, model)
    each = [[chosen(one) for one in documents(run).values()] for run in found]
    values = np.array(each, float)
    seeds = tuple(run.run for run in found)
    return Scores(seeds, values[..., 0], values[0, :, 1], directories(found[0]))


def paired(one: Scores, other: Scores) -> np.ndarray:
    """How many more bits `one` has, with the seeds that both have: ``[seeds, documents]``."""
    both = [seed for seed in one.seeds if seed in other.seeds]
    return np.array(
        [one.bits[one.seeds.index(seed)] - other.bits[other.seeds.index(seed)] for seed in both]
    )


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


@functools.cache
def draws(seeds: int, num_directories: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each draw has each seed and each directory, ``[DRAWS, …]``."""
    rng = np.random.default_rng(0)

    def count(size: int) -> np.ndarray:
        return np.bincount(rng.integers(size, size=size), minlength=size)

    drawn = [(count(seeds), count(num_directories)) for _ in range(DRAWS)]
    return tuple(map(np.array, zip(*drawn, strict=True)))


def difference(one: Scores, other: Scores) -> Difference:
    """How many more bits `one` has per count, over the seeds that both have."""
    bits = paired(one, other)
    summed = np.stack([np.bincount(one.directories, each) for each in bits])
    counts = np.bincount(one.directories, one.counts)
    of_seeds, of_directories = draws(len(bits), len(counts))
    drawn = (of_seeds @ summed * of_directories).sum(axis=1)
    drawn = drawn / len(bits) / (of_directories @ counts)
    value = summed.mean(axis=0).sum() / counts.sum()
    return Difference(float(value), *map(float, np.quantile(drawn, (0.025, 0.975))))


def trained(group: str = "memory") -> list[Model]:
    """The models with runs; the first of them is the one that others are compared with."""
    models = WIDE_SEEDS if group == "memory_128" else MEMORY_SEEDS
    return [model for model in models if runs(group, model)]


def memory_table(group: str) -> str:
    """Cost, bits per byte and difference to the model with a layer more."""
    header = ["model", "parameters", "time of a step", "steps", "seeds", "bits per byte"]
    header += ["difference", "by seed", "better on"]
    timed = group if (KEPT / group / "step_time.json").exists() else "memory"
    reference, rows = scores(SLIDE_5, whole, group), []
    for model in trained(group):
        one, found = runs(group, model)[0], scores(model, whole, group)
        time = microseconds_per_token(timed, model) / microseconds_per_token(timed, SLIDE_5)
        parameters = "–" if model.change else f"{num_parameters(one):,}"  # of the patched package
        row = [model.label, parameters, f"{time:.2f}"]
        row += [f"{one.config.train.num_steps:,}", str(len(found.bits)), f"{mean(found):.3f}"]
        if model == SLIDE_5:
            rows.append([*row, "–", "–", "–"])
            continue
        bits = paired(found, reference)
        by_seed = ", ".join(f"{each.sum() / found.counts.sum():+.3f}" for each in bits)
        better = bits.mean(axis=0) < 0
        cells = [str(difference(found, reference)), by_seed, f"{better.sum()} of {len(better)}"]
        rows.append([*row, *cells])
    return table(header, rows)


def names_of(starts: Sequence[int]) -> list[str]:
    return columns((*starts, 2**31))


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
    return binned_table(["bits per byte", *names_of(POSITIONS)], bins)


def identifiers_table() -> str:
    bins = [of_identifiers(index) for index in range(1 + len(DISTANCES))]
    return binned_table(["bits per identifier", "new", *names_of(DISTANCES)], bins)


def memory_figure() -> Figure:
    """The figure of differences to the sliding window with a layer more."""
    figure, [[left, right]] = new_figure(1, 2, panel=(3.7, 2.9))
    positions = [at_position(index) for index in range(len(POSITIONS))]
    identifiers = [of_identifiers(index) for index in range(1 + len(DISTANCES))]
    plot_differences(left, positions, names_of(POSITIONS))
    plot_differences(right, identifiers, ["new", *names_of(DISTANCES)])
    left.set_xlabel("position in the document, tokens")
    left.set_ylabel("bits per byte")
    right.set_xlabel("tokens since it last occurred")
    right.set_ylabel("bits per identifier")
    legend_above(figure, columns=2)
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


def wide_fields() -> dict[str, str]:
    """How the sliding window with 5 layers and long windows compares with that with short ones."""
    near = of_identifiers(1)
    long, short = runs("memory_128", SLIDE_5)[0].config, runs("memory", SLIDE_5)[0].config
    seconds = [microseconds_per_token(group, SLIDE_5) for group in ("memory_128", "memory")]
    times = [
        microseconds_per_token("memory_128", model) * WIDE_STEPS[model.name]
        for model in (FIXED_SKIP, SLIDE_5)
    ]
    fixed, kept, five, four, xl = (
        scores(model, whole, "memory_128")
        for model in (FIXED_SKIP, LONG_TERM, SLIDE_5, SLIDE_4, XL_5)
    )
    first = five._replace(seeds=five.seeds[:1], bits=five.bits[:1])  # from the trunk of `memory`
    return {
        "wide_window": str(long.model.window_length),
        "wide_rows": str(long.train.batch_size),
        "wide_segment": f"{long.train.segment_length:,}",
        "wide_times": str(long.model.window_length // short.model.window_length),
        "wide_cost": f"{seconds[0] / seconds[1]:.2f}",
        "wide_share": f"{times[0] / times[1]:.2f}",
        "wide_gain": str(difference(first, scores(SLIDE_5, whole))),
        "wide_near": f"{mean(scores(SLIDE_5, near, 'memory_128')):.1f}",
        "short_near": f"{mean(scores(SLIDE_5, near)):.1f}",
        "wide_worth": worth_of(runs("memory_128", FIXED_SKIP)),
        "wide_four": str(difference(fixed, four)),
        "wide_xl": str(difference(fixed, xl)),
        "long_term_worth": worth_of(runs("memory_128", LONG_TERM)),
        "long_term_four": str(difference(kept, four)),
    }


def memory_fields() -> dict[str, str]:
    """What the page's section on long documents says."""
    [trunk], one = runs("memory_trunk", SLIDE_4), runs("memory", SLIDE_5)[0]
    train, scored = one.config.train, documents(one)
    longest = max(sum(document["bytes"]) for document in scored.values())
    return {
        "memory_width": str(trunk.config.model.embedding_size),
        "memory_window": str(one.config.model.window_length),
        "memory_reach": str(one.config.model.num_layers * one.config.model.window_length),
        "memory_rows": str(train.batch_size),
        "memory_segment": str(train.segment_length),
        "memory_lanes": str(train.lanes),
        "memory_documents": str(len(scored)),
        "memory_directories": str(len(set(map(directory_of, scored)))),
        "memory_bytes": f"{longest:,}",
        "trunk_steps": f"{trunk.config.train.num_steps:,}",
        "memory_table": memory_table("memory"),
        "memory_longer_table": memory_table("memory_longer"),
        "wide_table": memory_table("memory_128"),
        **wide_fields(),
        "positions_table": positions_table(),
        "identifiers_table": identifiers_table(),
    }
