"""The gradient of one long segment whose blocks are split over devices (mesh.sequence).

    JAX_NUM_CPU_DEVICES=8 python benchmarks/sequence_parallel.py --segment_length=16384

*temporary MiB*: XLA's memory for the intermediate results, per device. *recurrence*: seconds of the
recurrent cell alone over the whole segment, forward and backward, on one device. While it runs on
one device after the other, the others wait; the backward pass runs it forward again. So with n
devices, at best, a step takes (whole − recurrence) / n + recurrence + its forward pass, which gives
*best speed-up*. *seconds* are measured, and mean something only where every device has processors
of its own.
"""

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from contenders import WORKERS
from flax import nnx
from report import report
from step_time import MODEL

from block_recurrent import ModelConfig
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.data.lanes import Batch
from block_recurrent.model.recurrent_cell import scan_blocks
from block_recurrent.model.transformer import BlockRecurrentTransformer, abstract_model, parameters
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training.train_step import make_gradients
from block_recurrent.types import KV

sys.path.append(str(WORKERS))
from jax_step import compiled  # noqa: E402


def seconds(function, rounds: int) -> float:
    """The median time of a call."""
    jax.block_until_ready(function())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def recurrence_seconds(model: BlockRecurrentTransformer, length: int, rounds: int):
    """Seconds of the cell over a segment: forward, and forward and backward."""
    config = model.config
    graphdef, params = nnx.split(model.layers[config.recurrent_indices[0]].cell)
    blocks, window = length // config.window_length, 2 * config.window_length
    shape = blocks, 1, config.num_heads, window, config.head_size
    tokens = KV(*(jax.random.normal(jax.random.key(i), shape, config.dtype) for i in (1, 2)))

    def total(params, tokens):
        cell = nnx.merge(graphdef, params)
        state, read = scan_blocks(cell, cell.initial_state(1), tokens)
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves((state, read)))

    forward, both = jax.jit(total), jax.jit(jax.grad(total, argnums=(0, 1)))
    return tuple(seconds(lambda run=run: run(params, tokens), rounds) for run in (forward, both))


def gradient(config: ModelConfig, devices: int, batch: Batch, state):
    """The gradient on some devices, as a function without arguments, and facts about it."""
    mesh = make_mesh(MeshConfig(sequence=devices), config, 1, jax.devices()[:devices])
    layout = Layout(mesh)
    graphdef, _ = abstract_model(config, layout.sequence_axis)
    shared = jnp.float32(batch.weights.sum()), jax.random.key(0)
    arguments = (*jax.device_put(state, layout.replicated), layout.put(batch), shared)
    run, facts = compiled(make_gradients(graphdef, layout, 1), *arguments)
    return lambda: run(*arguments), facts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--segment_length", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    config = ModelConfig(**MODEL | {"dropout_rate": 0.0} | args.model)
    model = BlockRecurrentTransformer(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, config.vocab_size, (1, args.segment_length + 1)).astype(np.int32)
    batch = Batch(
        tokens[:, :-1],
        tokens[:, 1:],
        np.ones((1, args.segment_length), np.float32),
        np.zeros((1, args.segment_length // config.window_length), bool),
    )
    state = parameters(model), (model.initial_state(1), jnp.ones(1, bool))
    forward, recurrence = recurrence_seconds(model, args.segment_length, args.rounds)
    rows, devices = [], 1
    while devices <= len(jax.devices()):
        run, facts = gradient(config, devices, batch, state)
        row = {"devices": devices, "temporary MiB": facts["temporary_bytes"] / 2**20}
        row["seconds"] = seconds(run, args.rounds)
        whole = rows[0]["seconds"] if rows else row["seconds"]
        row["recurrence"] = recurrence
        best = (whole - recurrence) / devices + recurrence + forward * (devices > 1)
        rows.append(row | {"best speed-up": whole / best})
        devices *= 2
    report("sequence_parallel", rows, args.json)


if __name__ == "__main__":
    main()
