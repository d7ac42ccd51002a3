"""The section of docs/results.md on quality for time, from what time_to_quality.py kept."""

import json
import shlex
from typing import Any

from experiment import KEPT
from quality_curves import OURS, THEIRS, TimesToLevel, difference, level, of, rows, times_to_level
from report import table

from block_recurrent.reporting.plots import BLUE, GREY, ORANGE, Figure, legend_above, new_figure

COLORS = {OURS: BLUE, THEIRS: ORANGE}
MARK = 1 / 3  # of their time; set before the runs
CLOCKS = {"processor": "processor time", "wall": "time by the clock"}
LABELS = {OURS: "this package", THEIRS: "lucidrains' package"}
OTHERS = {OURS: ", fewer steps", THEIRS: ", other learning rates"}


def kept() -> dict[str, Any]:
    return json.loads((KEPT / "time_to_quality.json").read_text(encoding="utf-8"))


def command(settings: dict[str, Any]) -> str:
    """The line that repeats the runs."""
    words = ["python benchmarks/time_to_quality.py", "--lucidrains_python=../torch_venv/bin/python"]
    for name, value in settings.items():
        if name == "gin_bindings":
            words += [shlex.quote(f"--gin_bindings={binding}") for binding in value]
        elif value is not None:
            each = value if isinstance(value, list) else [value]
            words.append(f"--{name}={','.join(map(str, each))}")
    return " ".join([*words, "--json=docs/results/time_to_quality.json"])


def worst_share(times: TimesToLevel) -> float:
    """With the number of steps for which it is the least, the largest share over the seeds."""
    return min(max(share for _, share in seeds) for seeds in times.values())


def shares_table(times: TimesToLevel) -> str:
    return table(
        [
            {
                "steps of ours": f"{steps:,}",
                "seconds, by seed": ", ".join(f"{t:.0f}" if t else "never" for t, _ in seeds),
                "share of their time": ", ".join(f"{part:.2f}" if t else "–" for t, part in seeds),
            }
            for steps, seeds in sorted(times.items())
        ]
    )


def numbers() -> dict[str, str]:
    """What the page says, by name."""
    content = kept()
    runs, settings = content["runs"], content["settings"]
    theirs = of(runs, THEIRS)[0]
    times = times_to_level(runs)
    more, low, high = difference(runs)
    return {
        "time_table": table(rows(runs)),
        "time_command": command(settings),
        "time_bindings": " and ".join(f"`{binding}`" for binding in settings["gin_bindings"]),
        "time_minutes": f"{settings['minutes']:g}",
        "time_clock": CLOCKS[settings["clock"]],
        "time_threads": f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}",
        "time_slice": f"{settings['slice']:g}",
        "time_machine": content["machine"]["cpu"],
        "time_seeds": ", ".join(map(str, settings["seeds"])),
        "time_level": f"{level(runs):.3f}",
        "time_shares": shares_table(times),
        "time_mark": "reached" if worst_share(times) <= MARK else "not reached",
        "time_difference": f"{more:.3f} (95% {low:.3f} to {high:.3f})",
        "time_some": str(settings["documents"]),
        "time_some_bytes": f"{settings['document_bytes']:,}",
        "time_final_bytes": f"{settings['final_document_bytes']:,}",
        "time_all": str(len(theirs["final"]["bytes"])),
        "time_all_bytes": f"{sum(theirs['final']['bytes']) / 1e6:.2f}",
        "time_tokens": f"{theirs['tokens_per_step']:,}",
    }


def figure() -> Figure:
    """Bits per byte by minutes of training; the best runs of each program are thick."""
    runs = kept()["runs"]
    drawing, [[ax]] = new_figure()
    for program in (OURS, THEIRS):
        best = of(runs, program)
        for run in (run for run in runs if run["program"] == program):
            seconds, bits = zip(*run["curve"], strict=True)
            label = LABELS[program]
            if run not in best:
                label += OTHERS[program]
            ax.plot(
                [each / 60 for each in seconds],
                bits,
                color=COLORS[program],
                linewidth=1.8 if run in best else 0.8,
                alpha=1 if run in best else 0.6,
                marker="o",
                markersize=3,
                label=label,
            )
    ax.axhline(level(runs), color=GREY, linestyle=":", linewidth=1)
    ax.set_xlabel("minutes of training")
    ax.set_ylabel("held-out bits per byte")
    ax.set_xlim(left=0)
    legend_above(drawing, columns=2)
    return drawing
