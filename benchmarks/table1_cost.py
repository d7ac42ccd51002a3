"""Cost of each row of the paper's Table 1: FLOPs counted from the model, and hours at a speed.

    python benchmarks/table1_cost.py [--utilisation 0.4]
    python benchmarks/table1_cost.py --measured rec_fixed_skip=185000 --chips 8

Traces the training step of each file in gin/table1 with abstract arrays, and counts the FLOPs of
its matrix products, including those of the gradient. Then

    chip-hours = steps × FLOPs per step / FLOP/s per chip / 3600

By default, the FLOP/s per chip are a share of the published peak, which is an assumption. With
--measured, they come from a run of one row: its tokens per second (from metrics.jsonl) × its FLOPs
per token / chips. The other rows are then assumed to reach the same FLOP/s.
"""

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import jax
from flops import matrix_flops
from scaling_on_paper import CHIPS, abstract_step

from block_recurrent.config.gin_files import shipped_gin_files
from block_recurrent.config.run_config import load


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
      name: of its gin file.
      parameters: of the model.
      steps: of the run.
      tokens: per step.
      flops: per step.
    """

    name: str
    parameters: int
    steps: int
    tokens: int
    flops: int

    def chip_hours(self, speed: float) -> float:
        """Of the whole run, at a speed in FLOP/s per chip."""
        return self.steps * self.flops / speed / 3600


def count_row(gin_file: str) -> Row:
    """Counts a row, on one device, so that nothing is split. Creates no array."""
    config = load([gin_file], [])
    _, step, state, batch = abstract_step(config, (1, 1, 1), jax.devices()[:1])
    return Row(
        name=Path(gin_file).stem,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        steps=config.train.num_steps,
        tokens=config.train.batch_size * config.train.segment_length,
        flops=matrix_flops(jax.make_jaxpr(step)(state, batch).jaxpr),
    )


def table(rows: Sequence[Row], speeds: dict[str, float]) -> str:
    """A Markdown table, with chip-hours for each speed in FLOP/s per chip."""
    head = ["row", "parameters", "GFLOP per token", "EFLOP in total", *speeds]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        numbers = [
            f"{row.parameters / 1e6:,.0f}M",
            f"{row.flops / row.tokens / 1e9:.3f}",
            f"{row.steps * row.flops / 1e18:,.1f}",
        ]
        hours = [f"{row.chip_hours(speed):,.0f}" for speed in speeds.values()]
        lines.append([f"`{row.name}`", *numbers, *hours])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured_speed(measured: str, chips: int, rows: Sequence[Row]) -> dict[str, float]:
    """FLOP/s per chip, from ROW=TOKENS_PER_SECOND of all chips together."""
    name, _, tokens_per_second = measured.partition("=")
    [row] = [row for row in rows if row.name == name]
    speed = float(tokens_per_second) * row.flops / row.tokens / chips
    return {f"chip-hours at {speed / 1e12:,.1f} TFLOP/s per chip": speed}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utilisation", type=float, default=0.4, help="of the published peak")
    parser.add_argument("--measured", metavar="ROW=TOKENS_PER_SECOND", help="of all chips together")
    parser.add_argument("--chips", type=int, default=1, help="number of chips measured")
    arguments = parser.parse_args()
    rows = [count_row(name) for name in shipped_gin_files() if name.startswith("gin/table1/")]
    if arguments.measured:
        speeds = measured_speed(arguments.measured, arguments.chips, rows)
    else:
        speeds = {
            f"{chip.name}, hours at {arguments.utilisation:.0%}": arguments.utilisation * chip.flops
            for chip in CHIPS
        }
    print(table(rows, speeds))


if __name__ == "__main__":
    main()
