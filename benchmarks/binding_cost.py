"""What a gin binding costs in a training step, compared with another one.

    python benchmarks/binding_cost.py "train.lanes = 16" "train.lanes = 512"
    python benchmarks/binding_cost.py "BlockRecurrentTransformer.gated_ffn = False" \
        "BlockRecurrentTransformer.gated_ffn = True"

The two steps take turns, 10 steps each in a round, and which is first alternates. The ratio is that
of the second binding to the first: the median over rounds, and in brackets the quartiles.
"""

import argparse
import statistics
import time

import jax
from report import report

from block_recurrent.config.run_config import load
from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.training.setup import Setup

STEPS = 10  # of each in a round


class Stepper:
    """The compiled training step of a configuration, with its state and batches."""

    def __init__(self, gin_files: list[str], binding: str):
        setup = Setup(load(gin_files, [binding]))
        self.step, self.state = setup.compile_step(), setup.initial_state()
        position, self.batches = setup.lanes.staggered_position(), []
        for _ in range(STEPS):
            batch, position = setup.lanes.read(position)
            self.batches.append(setup.layout.put(batch))
        self.seconds()  # the first steps also compile

    def seconds(self) -> tuple[float, float]:
        """Wall-clock and processor seconds of some steps."""
        wall, processor = time.perf_counter(), time.process_time()
        for batch in self.batches:
            self.state, _ = self.step(self.state, batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    keep_freed_memory()  # as the program does
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bindings", nargs=2)
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    files = args.gin_file or ["gin/brt_fixed_gate.gin"]
    one, other = (Stepper(files, binding) for binding in args.bindings)
    ratios = []
    for number in range(args.rounds):
        first, second = (one, other) if number % 2 else (other, one)
        times = {first: first.seconds(), second: second.seconds()}
        ratios.append([b / a for a, b in zip(times[one], times[other], strict=True)])
    rows = []
    for name, each in zip(("wall clock", "processor"), zip(*ratios, strict=True), strict=True):
        low, middle, high = statistics.quantiles(each, n=4)
        rows.append({"time": name, "ratio": f"{middle:.3f} [{low:.3f}, {high:.3f}]"})
    report("binding_cost", rows, args.json, bindings=args.bindings, ratios=ratios)


if __name__ == "__main__":
    main()
