"""Time of a training step of each model that was trained for docs/results.md, in turns.

    XLA_FLAGS=--xla_cpu_multi_thread_eigen=false python benchmarks/experiment_time.py recall

On a CPU it is processor time, which other programs on the machine disturb less; with one thread, as
there, the clock of an idle machine says the same. On a GPU it is time by the clock. Models of
several groups take turns as well.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import jax
from experiment import KEPT, Experiment
from experiments import EXPERIMENTS
from report import machine

from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.training.setup import Setup


def stepper(experiment: Experiment) -> Callable[[], float]:
    """A function that does a step and returns its seconds."""
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    setup = Setup(experiment.config)
    batch, _ = setup.lanes.read(setup.lanes.initial_position())
    batch = setup.layout.put(batch)
    step, state = setup.compile_step(), setup.initial_state()

    def timed() -> float:
        nonlocal state
        start = clock()
        state, _ = jax.block_until_ready(step(state, batch))
        return clock() - start

    timed()
    return timed


def main():
    keep_freed_memory()  # as the program does
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    groups = sorted({one.group for one in EXPERIMENTS})
    parser.add_argument("groups", nargs="+", choices=groups, metavar="GROUP")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    chosen = [one for one in EXPERIMENTS if one.group in arguments.groups and one.is_there]
    models = {(one.group, one.model.name): one for one in chosen}
    steppers = {model: stepper(experiment) for model, experiment in models.items()}
    rounds = [
        {model: timed() for model, timed in steppers.items()} for _ in range(arguments.rounds)
    ]
    for group in arguments.groups:
        seconds = {
            name: statistics.median(each[in_group, name] for each in rounds)
            for in_group, name in models
            if in_group == group
        }
        for name, median in seconds.items():
            print(f"{group + '/' + name:<32}{median:.3f} s")
        content = {"machine": machine(), "rounds": arguments.rounds, "seconds_a_step": seconds}
        path = KEPT / group / "step_time.json"
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
