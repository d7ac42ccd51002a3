"""Time of a training step and of a forward pass: ours, other checkouts, and other libraries.

    python benchmarks/step_time.py                                      # ours, float32
    python benchmarks/step_time.py --against=../old_checkout            # new against old
    python benchmarks/step_time.py --meliad=PATH --lucidrains_python=PATH/bin/python
    python benchmarks/step_time.py --model='{"num_layers": 12}' \\
        --variant slide13 '{"num_layers": 13, "recurrent_layers": []}'

All train with AdamW on the next-token loss, and carry the memory from segment to segment. Each
checkout named by --against runs its own benchmarks/workers/ours.py.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
from contenders import WORKERS, Contender, Worker, in_turns, median, ours, ratio
from flops import model_flops, peak
from report import report

from block_recurrent import ModelConfig

MODEL = {
    "num_layers": 6,
    "embedding_size": 256,
    "num_heads": 4,
    "head_size": 64,
    "mlp_dim": 1024,
    "vocab_size": 256,
    "window_length": 128,
    "recurrent_layers": [-3],
    "num_states": 128,
    "gate": "fixed",
    "configuration": "skip",
    "positions": "t5",
    "dropout_rate": 0.0,
    "dtype": "float32",
}


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that name the programs and what they run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--segment_length", type=int, default=1024)
    parser.add_argument("--dtypes", default="float32", help="comma-separated")
    parser.add_argument("--measures", default="train,forward", help="comma-separated")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--against", type=Path, action="append", default=[], help="another checkout of ours"
    )
    parser.add_argument(
        "--variant",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "JSON"),
        help="ours with other ModelConfig fields",
    )
    parser.add_argument(
        "--ours_python", action="append", default=[], help="a Python with other packages, for ours"
    )
    parser.add_argument(
        "--devices",
        type=int,
        action="append",
        default=[],
        help="ours, on N devices",
    )
    parser.add_argument(
        "--microbatches",
        type=int,
        action="append",
        default=[],
        help="ours, with the batch in N parts",
    )
    parser.add_argument(
        "--plain_loop", action="store_true", help="ours, in the training loop of docs/modules.md"
    )
    parser.add_argument("--meliad", type=Path, help="checkout of google-research/meliad")
    parser.add_argument("--lucidrains", action="store_true", help="with lucidrains' package")
    parser.add_argument("--lucidrains_python", help="a Python with lucidrains' package")
    parser.add_argument(
        "--lucidrains_modes", default="plain,flash", help="some of plain, flash, compile"
    )
    parser.add_argument("--json", help="where to write the result")
    return parser


def contenders(args: argparse.Namespace, dtype: str) -> list[Contender]:
    spec = {
        "batch_size": args.batch_size,
        "segment_length": args.segment_length,
        "measures": args.measures.split(","),
        "model": MODEL | {"dtype": dtype} | args.model,
    }
    found = [ours(f"ours {dtype}", spec)]
    for tree in args.against:
        found.append(ours(f"{tree} {dtype}", spec, tree=tree))
    for python in args.ours_python:
        found.append(ours(f"ours {dtype} by {python}", spec, python=python))
    for name, fields in args.variant:
        other = spec | {"model": spec["model"] | json.loads(fields)}
        found.append(ours(f"{name} {dtype}", other))
    for devices in args.devices:
        found.append(ours(f"ours {dtype} on {devices} devices", spec | {"devices": devices}))
    for parts in args.microbatches:
        found.append(ours(f"ours {dtype} in {parts} parts", spec | {"microbatches": parts}))
    if args.plain_loop:
        found.append(ours(f"ours {dtype} in a plain loop", spec, worker="ours_plain"))
    if args.meliad:
        found.append(Contender(f"meliad {dtype}", WORKERS / "meliad.py", spec, args.meliad))
    if args.lucidrains or args.lucidrains_python:
        python = args.lucidrains_python or sys.executable
        for mode in args.lucidrains_modes.split(","):
            options = {"flash": "flash" in mode, "compile": "compile" in mode}
            name, worker = f"lucidrains {mode} {dtype}", WORKERS / "lucidrains.py"
            found.append(Contender(name, worker, spec | options, python=python))
    return found


def throughput(row: dict, contender: Contender, tokens: int) -> dict:
    """Training tokens per second and, for ours, the FLOP/s that its model needs."""
    result = {"tokens/s": tokens / row["train s"]}
    if contender.worker.stem == "ours":
        spec = contender.spec
        flops = result["tokens/s"] * model_flops(
            ModelConfig(**spec["model"]), spec["segment_length"]
        )
        of_device = peak(jax.devices()[0].device_kind)
        result |= {"TFLOP/s": flops / 1e12, "MFU": of_device and flops / of_device}
    return result


def main() -> None:
    args = make_parser(__doc__.splitlines()[0]).parse_args()
    workers = []
    for dtype in args.dtypes.split(","):
        for contender in contenders(args, dtype):
            try:
                workers.append(Worker(contender))
            except RuntimeError as error:
                print(f"left out: {error}", file=sys.stderr)
    rows = [
        {
            "what": worker.name,
            "parameters": worker.facts["parameters"],
            "compile s": worker.facts.get("compile_seconds"),
            "trace s": worker.facts.get("trace_seconds"),
            "temporary MiB": worker.facts.get("temporary_bytes", 0) / 2**20 or None,
        }
        for worker in workers
    ]
    details = {}
    for measure in args.measures.split(","):
        details[measure] = runs = in_turns([(worker, measure) for worker in workers], args.rounds)
        for row, mine in zip(rows, runs, strict=True):
            row["peak MiB"] = mine[-1]["peak_bytes"] / 2**20
            row[f"{measure} s"] = median(mine)
            row[f"{measure} ratio"] = ratio(mine, runs[0])
            row[f"{measure} cpu ratio"] = ratio(mine, runs[0], "cpu_seconds")
    for worker in workers:
        worker.close()
    tokens = args.batch_size * args.segment_length
    if "train" in args.measures.split(","):
        for row, worker in zip(rows, workers, strict=True):
            row |= throughput(row, worker.contender, tokens)
    print(f"\nratio: time over that of the first line, median of {args.rounds} paired rounds;")
    print("cpu ratio: the same of processor time, all cores together")
    report("step_time", rows, args.json, runs=details, tokens=tokens, model=MODEL | args.model)


if __name__ == "__main__":
    main()
