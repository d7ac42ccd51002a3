"""Where the device time of a training step goes: kernels by part of the model and by kind.

    python benchmarks/profile_step.py --model='{"num_layers": 12}' --top=20

Takes the arguments of step_time.py that describe the model and the batch. Traces --steps steps with
JAX's profiler, finds the operation of the program that each kernel comes from, and prints
milliseconds per step. On a GPU, set XLA_FLAGS=--xla_gpu_enable_command_buffer= so that kernels keep
their names.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import jax
from contenders import WORKERS
from report import table, write
from step_time import MODEL

sys.path.append(str(WORKERS))
from ours import build  # noqa: E402

PARTS = ("recurrence", "attention", "ffn", "loss", "optimizer")  # of the model's named scopes
KINDS = (
    ("attention kernel", r"_(forward|d_queries|d_strip|d_keys_values)_kernel|pallas"),
    ("matrix product", r"gemm|nvjet|cutlass|xmma|cublas|dot"),
    ("copy", r"[Mm]emcpy|[Mm]emset|copy|transpose"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--segment_length", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--top", type=int, default=15, help="kernels to list")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


def operations(hlo: str) -> dict[str, str]:
    """For each instruction of a compiled program, the operation it comes from, as a path."""
    pattern = r'%?([\w.-]+) = .*?metadata=\{[^}]*op_name="([^"]*)"'
    return dict(re.findall(pattern, hlo))


def kernels(trace: Path) -> list[tuple[str, str, float]]:
    """Kernel, instruction and nanoseconds of each event on a device."""
    [file] = trace.rglob("*.xplane.pb")
    found = []
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            if line.name.startswith("Stream" if "GPU" in plane.name else ("XLA Ops", "tf_XLA")):
                for event in line.events:
                    facts = dict(event.stats)
                    if "hlo_op" in facts:
                        found.append((event.name, facts["hlo_op"], event.duration_ns))
    return found


def part_of(path: str) -> str:
    return next((part for part in PARTS if f"{part}/" in path or f"{part})" in path), "rest")


def kind_of(kernel: str, path: str) -> str:
    for kind, pattern in KINDS:
        if re.search(pattern, kernel) or kind == "attention kernel" and re.search(pattern, path):
            return kind
    return "elementwise and sums"


def main() -> None:
    args = parse()
    spec = {
        "batch_size": args.batch_size,
        "segment_length": args.segment_length,
        "measures": ["train"],
        "model": MODEL | args.model,
    }
    measures, step, facts = build(spec)
    measures["train"]()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        measures["train"]()
        seconds.append(time.perf_counter() - start)
    step_ms = 1e3 * statistics.median(seconds)
    print(f"{step_ms:.1f} ms per step; temporary memory {facts['temporary_bytes'] / 2**30:.2f} GiB")
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(args.steps):
                measures["train"]()
        found = kernels(Path(folder))
    source = operations(step.as_text())
    by_part, by_kernel = defaultdict(lambda: defaultdict(float)), defaultdict(float)
    for kernel, instruction, nanoseconds in found:
        path = source.get(instruction, "")
        ms = nanoseconds / 1e6 / args.steps
        by_part[part_of(path)][kind_of(kernel, path)] += ms
        by_kernel[kernel[:60], "/".join(path.split("/")[-4:])[-80:]] += ms
    kinds = [*(kind for kind, _ in KINDS), "elementwise and sums"]
    rows = [
        {"part": part, **{kind: by_part[part].get(kind, 0.0) for kind in kinds}}
        | {"ms per step": sum(by_part[part].values())}
        for part in (*PARTS, "rest")
    ]
    total = {"part": "all"} | {key: sum(row[key] for row in rows) for key in list(rows[0])[1:]}
    longest = sorted(by_kernel.items(), key=lambda item: -item[1])
    print(table([*rows, total]))
    print(table([{"ms": ms, "kernel": k, "from": p} for (k, p), ms in longest[: args.top]]))
    write("profile_step", [*rows, total], args.json, longest=longest, step_ms=step_ms)


if __name__ == "__main__":
    main()
