"""Generation: tokens per second and memory by length of the context, also of another library.

    python benchmarks/generate.py
    python benchmarks/generate.py --batch_size=8 --reads=4096
    python benchmarks/generate.py --lucidrains_python=PATH/bin/python

The other library (lucidrains') reads its whole segment again for each token, so its time depends on
the position in the segment. It is therefore measured after prompts of different lengths. Our time
after a prompt includes reading the prompt; our time after a context is that of generation alone.
"""

import argparse
import json

from contenders import WORKERS, Contender, Worker, in_turns, median, ours, ratio
from report import report
from step_time import MODEL


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--segment_length", type=int, default=1024, help="of lucidrains' model")
    parser.add_argument("--num_tokens", type=int, default=128, help="generated per measurement")
    parser.add_argument(
        "--contexts", default="1024,8192,65536,1048576", help="tokens, increasing, comma-separated"
    )
    parser.add_argument("--prompts", default="1,512,896", help="tokens, comma-separated")
    parser.add_argument(
        "--reads", default="", help="lengths of prompts that are only read, comma-separated"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lucidrains_python", help="a Python with lucidrains' package")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


def main() -> None:
    args = parse()
    contexts, prompts, reads = (
        [int(n) for n in text.split(",") if n] for text in (args.contexts, args.prompts, args.reads)
    )
    spec = {
        "model": MODEL | args.model,
        "batch_size": args.batch_size,
        "segment_length": args.segment_length,
        "num_tokens": args.num_tokens,
        "contexts": contexts,
        "prompts": prompts if args.lucidrains_python else [],
        "reads": reads,
    }
    own = Worker(ours("ours", spec, worker="ours_generate"))
    tokens, runs = args.batch_size * args.num_tokens, {}

    def measure(names, workers):
        """Rows of the table, each with its times."""
        measured = [(worker, name) for name in names for worker in workers]
        times = in_turns(measured, args.rounds)
        runs.update({f"{w.name}, {name}": t for (w, name), t in zip(measured, times, strict=True)})
        return [
            ({"what": f"{worker.name}, {name}", "tokens/s": tokens / median(t)}, t)
            for (worker, name), t in zip(measured, times, strict=True)
        ]

    rows = []
    found = measure([f"context {n}" for n in contexts], [own])
    for (row, times), memory in zip(found, own.facts["memory"].values(), strict=True):
        row["time ratio"] = ratio(times, found[0][1])
        row["state MiB"] = memory["state_bytes"] / 2**20
        row["process MiB"] = memory["resident_bytes"] / 2**20
        rows.append(row)
    for length in reads:
        [(row, times)] = measure([f"read {length}"], [own])
        rows.append(row | {"tokens/s": args.batch_size * length / median(times)})
    if args.lucidrains_python:
        options = spec | {"flash": False}
        peer = Worker(
            Contender(
                "lucidrains",
                WORKERS / "lucidrains_generate.py",
                options,
                python=args.lucidrains_python,
            )
        )
        found = measure([f"prompt {n}" for n in prompts], [own, peer])
        for index, (row, times) in enumerate(found):
            row["time ratio"] = ratio(times, found[index // 2 * 2][1])
            rows.append(row)
        peer.close()
    own.close()
    print(f"\n{args.num_tokens} tokens in each of {args.batch_size} row(s). time ratio: over the")
    print(f"shortest context, or over ours with that prompt; median of {args.rounds} paired rounds")
    report("generate", rows, args.json, seconds=runs, spec=spec)


if __name__ == "__main__":
    main()
