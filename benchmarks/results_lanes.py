"""Tables and figures of docs/results.md about lanes and the modern configuration."""

import statistics

from experiment import Experiment, Model
from experiments import FIXED_SKIP, MODERN, OTHER_RATES, PARTS
from results_memory import Scores, at_position, difference, mean, names_of, scores, whole
from results_runs import (
    final,
    mean_difference,
    metrics,
    microseconds_per_token,
    num_parameters,
    runs,
    spread,
    table,
    worth_of,
)
from score_documents import POSITIONS

from block_recurrent.reporting.plots import Figure, legend_above, new_figure

LANES_COLORS = {16: "#D55E00", 256: "#E69F00", 512: "#56B4E9", 1024: "#0072B2"}


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


def lanes_400_table() -> str:
    """A short training with different numbers of lanes: by position, and relative to 512 lanes."""
    experiments = runs("lanes_400", FIXED_SKIP)
    bins = [whole, *map(at_position, range(len(POSITIONS)))]
    found = [scores(FIXED_SKIP, chosen, "lanes_400") for chosen in bins]

    def of(index: int) -> list[Scores]:
        return [each._replace(seeds=("3",), bits=each.bits[[index]]) for each in found]

    [reference] = (of(i) for i, one in enumerate(experiments) if one.config.train.lanes == 512)
    rows = []
    for index, one in enumerate(experiments):
        train = one.config.train
        tokens = train.num_steps * train.batch_size * train.segment_length
        own = of(index)
        row = [f"{train.num_lanes:,}", f"{tokens // train.num_lanes:,}"]
        row += [f"{mean(each):.3f}" for each in own]
        more = difference(own[0], reference[0])
        rows.append([*row, "–" if train.lanes == 512 else str(more)])
    header = ["lanes", "tokens per lane", "bits per byte", *names_of(POSITIONS)]
    return table([*header, "difference"], rows)


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
