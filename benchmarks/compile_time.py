"""Compile time of a training step against depth.

python benchmarks/compile_time.py --depths=6,12,24
"""

import argparse
import json

from contenders import OURS, Contender, Worker
from report import report
from step_time import MODEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", default="6,12,24")
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--segment_length", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    rows = []
    for depth in map(int, args.depths.split(",")):
        model = MODEL | {"num_layers": depth} | args.model
        sizes = {"batch_size": args.batch_size, "segment_length": args.segment_length}
        worker = Worker(Contender("ours", "ours", sizes | {"model": model}, (str(OURS),)))
        worker.close()
        names = ("trace_seconds", "compile_seconds", "compile_cpu_seconds")
        rows.append({"layers": depth} | {name: worker.facts[name] for name in names})
    report("compile_time", rows, args.json)


if __name__ == "__main__":
    main()
