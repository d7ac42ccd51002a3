"""Worker: a training step of one of the runs of docs/results.md."""

import os
import sys
from pathlib import Path

from serve import arguments, serve

SPEC = arguments()
os.environ["BRT_CHANGE"] = SPEC["change"]  # before the package is imported
sys.path.append(str(Path(__file__).parents[1]))

import jax  # noqa: E402
from experiments import EXPERIMENTS  # noqa: E402
from jax_step import device_peak  # noqa: E402

from block_recurrent.freed_memory import keep_freed_memory  # noqa: E402
from block_recurrent.training.setup import Setup  # noqa: E402


def build():
    """The measure of a step of the run that is called `SPEC["name"]`."""
    setup = Setup(next(one for one in EXPERIMENTS if one.name == SPEC["name"]).config)
    batch, _ = setup.lanes.read(setup.lanes.initial_position())
    batch = setup.layout.put(batch)
    step, state = setup.compile_step(), setup.initial_state()

    def train():
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch))

    return {"train": train}


if __name__ == "__main__":
    keep_freed_memory()  # as the program does
    serve(build(), device_peak, platform=jax.default_backend())
