"""Trace and compile time of a training step, by depth.

python benchmarks/compile_time.py --depths=6,12,24
python benchmarks/compile_time.py --depths=6 --against=../older_checkout
"""

import argparse
import json
import statistics
from pathlib import Path

from contenders import OURS, Worker, ours, ratio
from report import report
from step_time import MODEL

TIMES = ("trace_seconds", "compile_seconds", "compile_cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", default="6,12,24")
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--segment_length", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--against", type=Path, action="append", default=[], help="another checkout of ours"
    )
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    sizes = {"batch_size": args.batch_size, "segment_length": args.segment_length}
    contenders = [
        ours(name, sizes | {"model": model, "measures": []}, tree=tree)
        for depth in map(int, args.depths.split(","))
        for model in [MODEL | {"num_layers": depth} | args.model]
        for name, tree in [("ours", OURS), *((str(tree), tree) for tree in args.against)]
    ]
    runs = [[] for _ in contenders]
    for _ in range(args.rounds):
        for contender, facts in zip(contenders, runs, strict=True):
            worker = Worker(contender)
            worker.close()
            together = worker.facts["trace_seconds"] + worker.facts["compile_seconds"]
            facts.append(worker.facts | {"seconds": together})
    rows = [
        {
            "tree": contender.name,
            "layers": contender.spec["model"]["num_layers"],
            **{name: statistics.median(run[name] for run in facts) for name in TIMES},
            "seconds": statistics.median(run["seconds"] for run in facts),
            "over the first": ratio(facts, runs[0]),
            "over the line before": ratio(facts, before),
        }
        for contender, facts, before in zip(contenders, runs, runs[:1] + runs[:-1], strict=True)
    ]
    print(f"\nseconds: both together; medians of {args.rounds} rounds, ratios within a round")
    report("compile_time", rows, args.json)


if __name__ == "__main__":
    main()
