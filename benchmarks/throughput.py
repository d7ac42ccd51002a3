"""Training tokens per second of each implementation alone, up to the largest batch that fits.

    python benchmarks/throughput.py --dtypes=bfloat16 --meliad=../meliad --lucidrains

Takes the arguments of step_time.py, which name the implementations and the model. Here, one at a
time has the device to itself, as in a real training. Each runs --batch_size first. Then the batch
is doubled until it does not fit, and a batch halfway between the last two is tried. The result is
written after each measurement, so a run that is stopped keeps what it has measured.
"""

import dataclasses
import itertools
import os
import statistics
import sys

# JAX leaves a quarter of a GPU's memory unused; PyTorch does not.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.95")

from contenders import Contender, Worker  # noqa: E402
from report import report, write  # noqa: E402
from step_time import MODEL, contenders, make_parser, throughput  # noqa: E402

FULL = ("RESOURCE_EXHAUSTED", "out of memory", "OutOfMemory")  # in what a program says at its end


def measure(contender: Contender, rounds: int) -> dict:
    """A row of the table: a contender's training step at one batch size, or why it has none."""
    size = contender.spec["batch_size"]
    row = {"what": contender.name, "batch": size, "result": "measured"}
    try:
        worker = Worker(contender)
        runs = [worker.run("train") for _ in range(rounds)]
    except RuntimeError as error:
        full = any(words in str(error) for words in FULL)
        return row | {"result": "does not fit" if full else str(error).splitlines()[-1]}
    worker.close()
    row["train s"] = statistics.median(run["seconds"] for run in runs)
    row |= throughput(row, contender, size * contender.spec["segment_length"])
    row["compile s"] = worker.facts.get("compile_seconds")
    row["peak MiB"] = runs[-1]["peak_bytes"] / 2**20
    return row


def with_batch(contender: Contender, size: int) -> Contender:
    return dataclasses.replace(contender, spec=contender.spec | {"batch_size": size})


def larger(contender: Contender, size: int, largest: int, rounds: int):
    """Yields the rows of larger batches: doubled while they fit, then one in between."""
    while 2 * size <= largest:
        yield (row := measure(with_batch(contender, 2 * size), rounds))
        if row["result"] != "measured":
            if row["result"] == "does not fit" and size > 1:
                yield measure(with_batch(contender, size + size // 2), rounds)
            return
        size *= 2


def with_ratios(rows: list[dict]) -> list[dict]:
    """Adds how many times as many tokens per second the first contender computes.

    Once with the same batch, and once with the best batch of each.
    """
    speeds, first = {}, rows[0]["what"]
    for row in rows:
        if "tokens/s" in row:
            speeds.setdefault(row["what"], {})[row["batch"]] = row["tokens/s"]
    ours = speeds.get(first, {})
    for row in rows:
        if ours and "tokens/s" in row:
            same = ours.get(row["batch"])
            row["ours, same batch"] = same and same / row["tokens/s"]
            row["ours, best batches"] = max(ours.values()) / max(speeds[row["what"]].values())
    return rows


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--largest", type=int, default=1024, help="batch that is not exceeded")
    parser.set_defaults(measures="train", lucidrains_modes="flash", rounds=10)
    args = parser.parse_args()
    if args.measures != "train":
        parser.error("this program measures training steps: leave --measures out")
    rows, fitting = [], []
    details = {"model": MODEL | args.model, "segment_length": args.segment_length}

    def keep(row):
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
        write("throughput", with_ratios(rows), args.json, **details)

    for dtype in args.dtypes.split(","):
        for contender in contenders(args, dtype):
            keep(row := measure(contender, args.rounds))
            if row["result"] == "measured":
                fitting.append(larger(contender, args.batch_size, args.largest, args.rounds))
    for row in itertools.chain.from_iterable(fitting):
        keep(row)
    report("throughput", rows, args.json, **details)


if __name__ == "__main__":
    main()
