"""Tokens a second and memory of generation against the length of the context, and of the peer.

    python benchmarks/generate.py
    python benchmarks/generate.py --batch_size=8
    python benchmarks/generate.py --lucidrains_python=PATH/bin/python

The peer reads its whole segment again for every token, so that its time depends on where in a
segment it stands: it is measured after prompts of different length. Our time after a prompt
includes the reading of it; after a context it is that of writing alone.
"""

import argparse
import json

from contenders import OURS, Contender, Worker, in_turns, median, ratio
from report import report
from step_time import MODEL


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--segment_length", type=int, default=1024, help="of the peer")
    parser.add_argument("--num_tokens", type=int, default=128, help="written in a measurement")
    parser.add_argument(
        "--contexts", default="1024,8192,65536,1048576", help="tokens, rising, comma-separated"
    )
    parser.add_argument("--prompts", default="1,512,896", help="likewise")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lucidrains_python", help="a Python that has it installed")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


def main() -> None:
    args = parse()
    contexts, prompts = (
        [int(n) for n in text.split(",") if n] for text in (args.contexts, args.prompts)
    )
    spec = {
        "model": MODEL | args.model,
        "batch_size": args.batch_size,
        "segment_length": args.segment_length,
        "num_tokens": args.num_tokens,
        "contexts": contexts,
        "prompts": prompts if args.lucidrains_python else [],
    }
    ours = Worker(Contender("ours", "ours_generate", spec, (str(OURS),)))
    tokens, runs = args.batch_size * args.num_tokens, {}

    def measure(names, workers):
        """Rows of a table, each with its times."""
        measured = [(worker, name) for name in names for worker in workers]
        times = in_turns(measured, args.rounds)
        runs.update({f"{w.name}, {name}": t for (w, name), t in zip(measured, times, strict=True)})
        return [
            ({"what": f"{worker.name}, {name}", "tokens/s": tokens / median(t)}, t)
            for (worker, name), t in zip(measured, times, strict=True)
        ]

    rows = []
    found = measure([f"context {n}" for n in contexts], [ours])
    for (row, times), memory in zip(found, ours.facts["memory"].values(), strict=True):
        row["time ratio"] = ratio(times, found[0][1])
        row["state MiB"] = memory["state_bytes"] / 2**20
        row["process MiB"] = memory["resident_bytes"] / 2**20
        rows.append(row)
    if args.lucidrains_python:
        options = spec | {"flash": False}
        peer = Worker(
            Contender("lucidrains", "lucidrains_generate", options, python=args.lucidrains_python)
        )
        found = measure([f"prompt {n}" for n in prompts], [ours, peer])
        for index, (row, times) in enumerate(found):
            row["time ratio"] = ratio(times, found[index // 2 * 2][1])
            rows.append(row)
        peer.close()
    ours.close()
    print(f"\n{args.num_tokens} tokens in each of {args.batch_size} row(s); time ratio: over the")
    print(
        f"shortest context, or over ours after that prompt, median of {args.rounds} paired rounds"
    )
    report("generate", rows, args.json, seconds=runs, spec=spec)


if __name__ == "__main__":
    main()
