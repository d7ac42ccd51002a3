"""Trains tiny models on meshes of eight devices, and prints the results as JSON.

    python tests/eight_devices.py VARIANT… -- DATA,FSDP,TENSOR,SEQUENCE…

Run with JAX_NUM_CPU_DEVICES=8.
"""

import collections
import dataclasses
import json
import re
import sys

import jax
import numpy as np

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.train_options import OptimizerConfig
from block_recurrent.data.lanes import Batch
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training.optimizers import make_optimizer
from block_recurrent.training.train_step import init_function, make_train_step, state_shardings
from block_recurrent.training.turns import in_turns
from tiny import TINY, VARIANTS

ROWS, LENGTH, STEPS = 16, 32, 20
SEED = 2  # with this seed, no hidden unit changes sign by rounding
VARIANTS = VARIANTS | {
    "transformer_xl": {"recurrent_layers": ()},
    "fused": {"attention_kernel": "pallas", "num_layers": 2},
    "turns": {},
    "microbatches": {},
}
# Without dropout, whose masks repeat within a part of a segment.
VARIANTS |= {
    f"{name}_parts": VARIANTS[name] | {"dropout_rate": 0.0}
    for name in ("fixed_skip", "lstm_dual", "modern")
}
TURNS = {"turns": 3}  # lanes per row; else 1
PARTS = {"microbatches": 2}  # of the batch, on more than one device; else 1
COLLECTIVE = re.compile(
    r"= (?P<shape>.*?) (?P<name>all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)


def train(variant: str, shape: tuple[int, int, int, int]):
    """The losses, the final parameters, and the collectives of a step with their shapes."""
    length = TINY.window_length if variant == "transformer_xl" else LENGTH
    changes = {"num_heads": 4, "head_size": 8, "dropout_rate": 0.1} | VARIANTS[variant]
    config = dataclasses.replace(TINY, **changes)
    optimizer, _ = make_optimizer(OptimizerConfig(warmup_steps=2))
    devices = jax.devices()[: int(np.prod(shape))]
    layout = Layout(make_mesh(MeshConfig(*shape), config, ROWS, devices))
    graphdef, _ = abstract_model(config, layout.sequence_axis)
    turns = TURNS.get(variant, 1)
    init = init_function(config, optimizer, ROWS * turns, seed=0)
    shardings = state_shardings(layout, jax.eval_shape(init))
    state = jax.jit(init, out_shardings=shardings)()
    parts = PARTS.get(variant, 1) if len(devices) > 1 else 1
    step = make_train_step(graphdef, optimizer, 1, layout, parts)
    if turns > 1:
        step = in_turns(step, layout, shardings)
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.replicated))
    rng = np.random.default_rng(SEED)
    compiled, losses = None, []
    for number in range(STEPS):
        tokens = rng.integers(0, 260, (ROWS, length + 1)).astype(np.int32)
        starts = rng.random((ROWS, length // TINY.window_length)) < 0.3
        weights = np.ones((ROWS, length), np.float32)
        turn = np.full(ROWS, number % turns, np.int32) if turns > 1 else None
        batch = layout.put(Batch(tokens[:, :-1], tokens[:, 1:], weights, starts, turn))
        compiled = compiled or step.lower(state, batch).compile()
        state, measured = compiled(state, batch)
        losses.append(float(measured.loss))
    collectives = collections.Counter()
    for line in compiled.as_text().splitlines():
        if match := COLLECTIVE.search(line):
            where = " in a loop" if "/while/body" in line else ""
            collectives[f"{match['name']} {match['shape']}{where}"] += 1
    return losses, jax.device_get(state.params), collectives


def main():
    middle = sys.argv.index("--")
    results = {}
    for variant in sys.argv[1:middle]:
        losses, params, _ = train(variant, (1, 1, 1, 1))
        results[variant] = {"alone": losses}
        for mesh in sys.argv[middle + 1 :]:
            there, found, collectives = train(variant, tuple(map(int, mesh.split(","))))
            differences = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), params, found)
            results[variant][mesh] = {
                "losses": there,
                "difference": max(jax.tree.leaves(differences)),
                "collectives": collectives,
            }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
