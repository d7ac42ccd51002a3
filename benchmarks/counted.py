"""What the compiled training step costs, counted, relative to a plain step of the same model.

    python benchmarks/counted.py              # compares with benchmarks/counted.json
    python benchmarks/counted.py --update     # records the figures of this jax, after a change

Compiles the step of this package and that of benchmarks/reference_step.py for a CPU with AVX2,
whatever the processor. All figures are ratios, ours over the reference's. What is counted may grow
by 3 % before the program fails. Times depend on the machine, so they only cause warnings. XLA
compiles differently from version to version, so there are figures for each minor version of jax.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

# Before JAX is imported. What is counted does not depend on LLVM, whose optimizations take longest.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_backend_optimization_level=0",
}

import jax  # noqa: E402
import numpy as np  # noqa: E402

from block_recurrent import ModelConfig  # noqa: E402

HERE = Path(__file__).parent
sys.path.append(str(HERE / "workers"))

from jax_step import compiled  # noqa: E402
from our_step import Workload  # noqa: E402
from reference_step import OPTIMIZER, make_step  # noqa: E402

RECORD = HERE / "counted.json"
SPEC = {
    "batch_size": 4,
    "segment_length": 256,
    "model": {
        "num_layers": 2,
        "embedding_size": 64,
        "num_heads": 4,
        "head_size": 16,
        "mlp_dim": 256,
        "vocab_size": 256,
        "window_length": 64,
        "recurrent_layers": [-1],
        "num_states": 32,
        "dropout_rate": 0.0,
    },
}
COUNTED = ("FLOPs", "bytes accessed", "temporary bytes", "kernels", "copies")
TIMED = ("compile seconds",)  # of the processor
GROWTH = 0.03
SLOWER = 0.3
STEPS = 2  # after which both must have the same loss
NO_KERNEL = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota"}


def operations(hlo: str) -> list[str]:
    """The operations that a compiled program runs as kernels, each once, whatever loop it is in.

    What a fusion computes inside is part of that kernel.
    """
    inside = set(re.findall(r"(?:calls|to_apply)=%?([\w.-]+)", hlo))
    found, counts = [], False
    for line in hlo.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            counts = head[1] not in inside
        elif counts and (operation := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z-]+)\(", line)):
            found.append(operation[1])
    return [operation for operation in found if operation not in NO_KERNEL]


def figures(step, facts: Mapping[str, float]) -> dict[str, float]:
    """What a compiled step costs."""
    cost = step.cost_analysis()
    kernels = operations(step.as_text())
    return {
        "FLOPs": cost["flops"],
        "bytes accessed": cost["bytes accessed"],
        "temporary bytes": facts["temporary_bytes"],
        "kernels": len(kernels),
        "copies": sum(name in ("copy", "transpose") for name in kernels),
        "compile seconds": facts["compile_cpu_seconds"],
    }


def measure() -> dict[str, float]:
    """The figures of our step over those of the reference, after both have done the same steps."""
    ours = Workload(SPEC)
    step, facts = ours.compile_step()
    first, batch = ours.state, ours.batch
    holder = [*jax.tree.map(np.array, (first.params, OPTIMIZER.init(first.params), first.model))]
    plain, plain_facts = compiled(
        make_step(ModelConfig(**SPEC["model"])), *holder, batch, donate_argnums=(0, 1, 2)
    )
    state = first
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        *holder, loss = plain(*holder, batch)
        np.testing.assert_allclose(metrics.loss, loss, rtol=1e-4)
    found, reference = figures(step, facts), figures(plain, plain_facts)
    print(json.dumps({"ours": found, "reference": reference}), file=sys.stderr)
    return {name: round(found[name] / reference[name], 4) for name in found}


def grown(found: Mapping[str, float], recorded: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """What costs too much, and which times seem too long, each as a line."""

    def lines(names, allowed):
        return [
            f"{name}: {found[name]} times the reference's, {recorded[name]} recorded"
            for name in names
            if found[name] > recorded[name] * (1 + allowed)
        ]

    return lines(COUNTED, GROWTH), lines(TIMED, SLOWER)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write the figures to {RECORD.name}")
    update = parser.parse_args().update
    version = ".".join(jax.__version__.split(".")[:2])
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if version not in record and not update:
        print(f"no figures for jax {version}: run this program with --update")
        return 0
    found = measure()
    if update:
        record = dict(sorted((record | {version: found}).items()))
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return 0
    failures, warnings = grown(found, record[version])
    for line in warnings:
        print(f"warning: {line}")
    for line in failures:
        print(f"error: {line} (on purpose? then --update)")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
