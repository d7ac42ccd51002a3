"""Time and memory of a training step by the length of the segment: what is linear?

    python benchmarks/scaling.py --plot=scaling.png

One segment per step, with the models of the shipped gin files at the sizes below. A Transformer-XL
trains on one window per step, so its longer segment is a longer window. A model is measured up to
the length whose step needs more than --max_gib of temporary memory, which is known once it is
compiled, or more than --max_seconds, extrapolated from shorter segments.

*temporary MiB*: XLA's memory for the intermediate results of a step, in addition to parameters,
optimizer state and batch. *peak MiB*: the peak memory of the process (ru_maxrss), with Python, JAX
and the compilation, which take about 600 MiB.
"""

import argparse
import dataclasses
import itertools
import json
from pathlib import Path

from contenders import Worker, in_turns, median, ours, ratio
from report import report

from block_recurrent.config import run_config as configs

GIN_FILES = {
    "block-recurrent": "gin/brt_fixed_gate.gin",
    "sliding window": "gin/sliding_window.gin",
    "Transformer-XL": "gin/transformer_xl.gin",
    "full attention": "gin/full_attention.gin",
}
SIZES = (
    "WINDOW_LENGTH = 128",
    "BlockRecurrentTransformer.num_states = 128",
    "BlockRecurrentTransformer.num_layers = 4",
    "BlockRecurrentTransformer.embedding_size = 128",
    "BlockRecurrentTransformer.num_heads = 2",
    "BlockRecurrentTransformer.head_size = 64",
    "BlockRecurrentTransformer.mlp_dim = 512",
)

COLUMNS = (
    *("model", "length", "seconds", "us per token", "temporary MiB", "peak MiB"),
    *("time of 4x", "cpu time of 4x", "memory of 4x", "note"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(GIN_FILES), help="comma-separated")
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384,32768,65536")
    parser.add_argument("--gin_bindings", action="append", default=[], help="override the sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max_gib", type=float, default=8.0, help="of temporary memory")
    parser.add_argument("--max_seconds", type=float, default=15.0, help="per step")
    parser.add_argument("--add", action="append", default=[], help="rows of an earlier --json")
    parser.add_argument("--json", help="where to write the result")
    parser.add_argument("--plot", help="where to write a plot, as PNG; needs matplotlib")
    return parser.parse_args()


def spec(name: str, length: int, args: argparse.Namespace) -> dict:
    """The spec for the worker: the model of the gin file, for segments of this length."""
    sized = "WINDOW_LENGTH" if name == "Transformer-XL" else "SEGMENT_LENGTH"
    bindings = [*SIZES, f"{sized} = {length}", *args.gin_bindings]
    model = configs.load([GIN_FILES[name]], bindings).model
    return {
        "batch_size": 1,
        "segment_length": length,
        "model": dataclasses.asdict(model),
        "measures": ["train"],
        "max_temporary_bytes": args.max_gib * 2**30,
    }


def measure(name: str, lengths: list[int], args: argparse.Namespace) -> list[dict]:
    """One row per length. All lengths of a model run in turns, each in its own process."""
    rows = [{"model": name, "length": length} for length in lengths]
    workers, first = [], []
    for row in rows:
        expected = first[-1] ** 2 / first[-2] if len(first) > 1 else 0
        if expected > args.max_seconds:
            row["note"] = f"would take about {expected:.0f} s"
            break
        worker = Worker(ours(name, spec(name, row["length"], args)))
        row["temporary MiB"] = worker.facts["temporary_bytes"] / 2**20
        if "train" not in worker.facts["first_call_seconds"]:
            worker.close()
            row["note"] = f"needs {row['temporary MiB'] / 1024:.0f} GiB"
            break
        workers.append(worker)
        first.append(worker.facts["first_call_seconds"]["train"])
    runs = in_turns([(worker, "train") for worker in workers], args.rounds)
    for row, run in zip(rows, runs, strict=False):
        row["seconds"] = median(run)
        row["us per token"] = 1e6 * row["seconds"] / row["length"]
        row["peak MiB"] = run[-1]["peak_bytes"] / 2**20
    for shorter, row in itertools.product(range(len(runs)), repeat=2):
        if rows[row]["length"] == 4 * rows[shorter]["length"]:
            rows[row]["time of 4x"] = ratio(runs[row], runs[shorter])
            rows[row]["cpu time of 4x"] = ratio(runs[row], runs[shorter], "cpu_seconds")
            rows[row]["memory of 4x"] = rows[row]["temporary MiB"] / rows[shorter]["temporary MiB"]
    for worker in workers:
        worker.close()
    return rows[: len(runs) + 1]


def draw(rows: list[dict], path: str) -> None:
    """Plots time and temporary memory by length on logarithmic axes, with slopes 1 and 2."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lengths = sorted({row["length"] for row in rows})
    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4.5), constrained_layout=True)
    for panel, column, title in zip(
        panels,
        ("seconds", "temporary MiB"),
        ("time of a training step, seconds", "temporary memory of a training step, MiB"),
        strict=True,
    ):
        ran = [row for row in rows if row.get("seconds")]
        for name, marker in zip(GIN_FILES, "os^D", strict=True):
            mine = [row for row in ran if row["model"] == name]
            x, y = [row["length"] for row in mine], [row[column] for row in mine]
            panel.plot(x, y, marker=marker, label=name)
        low, high = min(row[column] for row in ran), max(row[column] for row in ran)
        for power, style, label in ((1, ":", "linear"), (2, "--", "quadratic")):
            guide = [0.7 * low * (length / lengths[0]) ** power for length in lengths]
            panel.plot(lengths, guide, style, color="0.6", linewidth=1, label=label, zorder=0)
        panel.set(xscale="log", yscale="log", ylim=(0.5 * low, 2 * high), title=title)
        panel.set_xticks(lengths, [f"{length // 1024}k" for length in lengths], minor=False)
        panel.minorticks_off()
        panel.set_xlabel("tokens in the segment")
        panel.grid(color="0.92")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    args = parse()
    lengths = sorted(map(int, args.lengths.split(",")))
    rows = [row for path in args.add for row in json.loads(Path(path).read_text())["rows"]]
    for name in filter(None, args.models.split(",")):
        rows += measure(name, lengths, args)
    print("\n… of 4x: ratio to that of a segment a quarter as long; 4 is linear.")
    print(f"Times are medians over {args.rounds} rounds; time ratios are medians of paired ratios.")
    report("scaling", [{column: row.get(column) for column in COLUMNS} for row in rows], args.json)
    if args.plot:
        draw(rows, args.plot)


if __name__ == "__main__":
    main()
