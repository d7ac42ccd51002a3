"""What the training loop costs over the bare step: data, metrics, dispatch.

    python benchmarks/loop_overhead.py
    python benchmarks/loop_overhead.py --gin_file=gin/brt_lstm_gate.gin --log_every_steps=50

One run of `Trainer`. After every --log_every_steps steps its clock is paused while as many bare
steps run: the same compiled step, on a copy of the state and on batches that are ready. The loop's
time comes from its own metrics (tokens per second between two lines of metrics.jsonl, without
evaluations and checkpoints). The ratio is the median over such pairs. "between steps" is the time
from the end of one call of the step to the next. A GPU works on meanwhile, so that this time does
not show in the ratio there.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import jax
from report import report

from block_recurrent.config import run_config as configs
from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.training import trainer
from block_recurrent.training.loop import TrainingLoop


class PairedLoop(TrainingLoop):
    """A training loop that measures bare steps between its own."""

    bare_seconds = []  # of each stretch of bare steps
    between = []  # seconds from the end of one call of the step to the next

    def run(self, state, position, batches, lacks_evaluation=False):
        self.bare_step, self.step = self.step, self.observed_step
        self.bare_state = jax.tree.map(lambda leaf: leaf.copy(), state)
        self.results, self.left = None, time.perf_counter()
        return super().run(state, position, self.paired(batches), lacks_evaluation)

    def observed_step(self, state, batch):
        self.between.append(time.perf_counter() - self.left)
        state, self.results = self.bare_step(state, batch)
        self.left = time.perf_counter()
        return state, self.results

    def paired(self, batches):
        """The batches of the loop, with the bare steps between two stretches of them."""
        stretch, ready = self.train.log_every_steps, []
        for index, (batch, position) in enumerate(batches):
            if len(ready) < stretch:
                ready.append(batch)
            elif index % stretch == 0:
                jax.block_until_ready(self.results)  # of the loop's last step: the loop's time
                start = time.perf_counter()
                with self.reporter.timer.pause("bare steps"):
                    for held in ready:
                        self.bare_state, results = self.bare_step(self.bare_state, held)
                    jax.block_until_ready(results)
                self.bare_seconds.append(time.perf_counter() - start)
                self.left += time.perf_counter() - start
            yield batch, position


def main() -> None:
    keep_freed_memory()  # as the program does
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--gin_bindings", action="append", default=[])
    parser.add_argument("--log_every_steps", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    steps = args.log_every_steps * (args.pairs + 2)
    never = [f"train.{name}_every_steps = {steps}" for name in ("eval", "checkpoint")]
    given = [f"train.num_steps = {steps}", f"train.log_every_steps = {args.log_every_steps}"]
    files = args.gin_file or ["gin/brt_fixed_gate.gin"]
    config = configs.load(files, given + never + args.gin_bindings)
    with tempfile.TemporaryDirectory() as folder:
        with patch.object(trainer, "TrainingLoop", PairedLoop):
            trainer.Trainer(config, Path(folder)).run()
        lines = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
        lines = [line for line in lines if line["split"] == "train"]
    whole = config.train.batch_size * config.train.segment_length * args.log_every_steps
    loop = [whole * (1 - line["padding"]) / line["tokens_per_second"] for line in lines]
    pairs = list(zip(loop, PairedLoop.bare_seconds, strict=False))[1:]  # the first warms up
    row = {
        "loop, ms a step": 1e3 * statistics.median(loop[1:-1]) / args.log_every_steps,
        "bare, ms a step": 1e3 * statistics.median(PairedLoop.bare_seconds) / args.log_every_steps,
        "loop over bare": statistics.median(a / b for a, b in pairs),
    }
    first, _, third = statistics.quantiles([a / b for a, b in pairs])
    row["between steps, ms"] = 1e3 * statistics.mean(PairedLoop.between[2 * args.log_every_steps :])
    row["half of the pairs"] = f"{first:.3f} to {third:.3f}"
    report("loop_overhead", [row], args.json, pairs=pairs)


if __name__ == "__main__":
    main()
