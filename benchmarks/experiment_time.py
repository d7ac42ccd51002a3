"""Time of a training step of each model that was trained for docs/results.md, in turns.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/experiment_time.py recall

On a CPU it is processor time, which other programs on the machine disturb less; with one thread, as
there, the clock of an idle machine says the same. On a GPU it is time by the clock. Models of
several groups take turns as well.
"""

import argparse
import json
import sys

from contenders import Worker, in_turns, median, ours
from experiment import KEPT, PATCH, is_patched
from experiments import EXPERIMENTS
from report import machine

STEP = "experiment_step"  # of benchmarks/workers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    groups = sorted({one.group for one in EXPERIMENTS})
    parser.add_argument("groups", nargs="+", choices=groups, metavar="GROUP")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    chosen = [one for one in EXPERIMENTS if one.group in arguments.groups and one.is_there]
    models = {(one.group, one.model.name): one for one in chosen}
    if any(one.model.change for one in models.values()) and not is_patched():
        sys.exit(f"error: some of these models need a patched package: git apply {PATCH}")
    workers = [
        Worker(ours(one.name, {"name": one.name, "change": one.model.change}, worker=STEP))
        for one in models.values()
    ]
    found = in_turns([(worker, "train") for worker in workers], arguments.rounds)
    clock = "cpu_seconds" if workers[0].facts["platform"] == "cpu" else "seconds"
    for worker in workers:
        worker.close()
    for group in arguments.groups:
        seconds = {
            name: median(mine, clock)
            for (in_group, name), mine in zip(models, found, strict=True)
            if in_group == group
        }
        for name, each in seconds.items():
            print(f"{group + '/' + name:<32}{each:.3f} s")
        content = {"machine": machine(), "rounds": arguments.rounds, "seconds_a_step": seconds}
        path = KEPT / group / "step_time.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
