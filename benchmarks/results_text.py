"""Tables and figures of docs/results.md about text."""

import itertools
import statistics
from collections.abc import Sequence

from experiment import KEPT, Experiment, Model
from experiments import (
    FIXED_SKIP,
    GATES_IN_SHORT_RUNS,
    GRU_SKIP,
    LEARNING_RATES,
    LOW_RATES,
    TEXT_MODELS,
)
from results_runs import (
    COLORS,
    by_distance,
    columns,
    differences,
    final,
    mean_between,
    mean_difference,
    metrics,
    microseconds_per_token,
    minutes,
    num_parameters,
    plot_worth,
    runs,
    spread,
    table,
    worth_of,
)

from block_recurrent.reporting.plots import GREY, Figure, legend_above, new_figure

GATES_BOUNDS = (0, 512, 2048, 8192, 2**31)


def tuned(group: str, model: Model) -> list[Experiment]:
    """The runs at each learning rate, in order."""
    return sorted(runs(group, model), key=lambda one: one.config.optimizer.learning_rate)


def best(group: str, model: Model) -> Experiment:
    """The run with the best learning rate, by its final bits per byte."""
    return min(tuned(group, model), key=lambda one: final(one, "bits_per_byte"))


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


def compared_table(group: str, models: Sequence[Model]) -> str:
    """Bits per byte on text, and the differences to the first model with the same seed."""
    header = ["model", "seeds", "bits per byte", "difference by seed", "mean", "worth of the state"]
    first, rows = models[0], []
    for model in models:
        if not (seeds := runs(group, model)):
            continue
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
    rates = (*LOW_RATES, *LEARNING_RATES)
    left.set_xticks(rates, [f"{rate:g}" for rate in rates])
    left.set_ylim(2.1, 2.6)  # without the highest losses of the LSTM
    left.minorticks_off()
    left.set_xlabel("learning rate")
    left.set_ylabel("bits per byte")
    right.set_xlabel("step")
    right.set_ylabel("worth of the state, bits")
    right.set_xlim(0)
    right.axhline(0, color=GREY, linestyle=":", linewidth=1)
    legend_above(figure, columns=3)
    return figure
