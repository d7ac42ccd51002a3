"""Equal layers called one by one, as in the model, and in a scan over stacked parameters.

    python benchmarks/layer_scan.py --depths=12,24

A step of gradient descent of sliding-window layers alone. Parameters and caches are stacked before
the measurement. Training could do so only if checkpoints stored the parameters stacked.
"""

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
from contenders import WORKERS, in_turns, median, ratio
from flax import nnx
from report import report
from step_time import MODEL

from block_recurrent import ModelConfig
from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.model.layers import TransformerLayer
from block_recurrent.model.transformer import run_layer

sys.path.append(str(WORKERS))
from jax_step import compiled  # noqa: E402


def one_by_one(graphdef, params, x, caches):
    after = []
    for layer, cache in zip(params, caches, strict=True):
        x, cache = run_layer(graphdef, layer, x, cache, None, None, None)
        after.append(cache)
    return x, after


def scanned(graphdef, params, x, caches):
    def step(x, layer):
        return run_layer(graphdef, layer[0], x, layer[1], None, None, None)

    return jax.lax.scan(step, x, (params, caches))


def stacked(layers):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


class Step:
    """A training step of these layers, compiled and warmed up, with its current state."""

    def __init__(self, stack, config: ModelConfig, depth: int, batch_size: int, length: int):
        layers = [TransformerLayer(config, rngs=nnx.Rngs(seed)) for seed in range(depth)]
        graphdef = nnx.graphdef(layers[0])
        params = [nnx.state(layer) for layer in layers]
        caches = [layer.initial_state(batch_size) for layer in layers]
        if stack is scanned:
            params, caches = stacked(params), stacked(caches)
        self.x = jax.random.normal(jax.random.key(0), (batch_size, length, config.embedding_size))

        def loss(params, caches):
            x, caches = stack(graphdef, params, self.x, caches)
            return jnp.square(x).mean(), caches

        def step(params, caches):
            grads, caches = jax.grad(loss, has_aux=True)(params, caches)
            return jax.tree.map(lambda leaf, grad: leaf - 1e-3 * grad, params, grads), caches

        self.state = params, caches
        self.step, self.facts = compiled(step, *self.state, donate_argnums=(0, 1))
        self.run("train")

    def run(self, _measure: str) -> dict:
        """Like `Worker.run`."""
        start = time.perf_counter()
        self.state = jax.block_until_ready(self.step(*self.state))
        return {"seconds": time.perf_counter() - start}


def main() -> None:
    keep_freed_memory()  # as the commands do
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--depths", default="12,24", help="comma-separated")
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--segment_length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    config = ModelConfig(**MODEL | {"recurrent_layers": ()} | args.model)
    rows = []
    for depth in map(int, args.depths.split(",")):
        steps = [
            Step(stack, config, depth, args.batch_size, args.segment_length)
            for stack in (one_by_one, scanned)
        ]
        runs = in_turns([(step, "train") for step in steps], args.rounds)
        for name, step, mine in zip(("one by one", "scan"), steps, runs, strict=True):
            rows.append(
                {
                    "layers": f"{depth}, {name}",
                    "trace_seconds": step.facts["trace_seconds"],
                    "compile_seconds": step.facts["compile_seconds"],
                    "step_seconds": median(mine),
                    "of one by one": ratio(mine, runs[0]),
                    "temporary_mib": step.facts["temporary_bytes"] / 2**20,
                }
            )
    report("layer_scan", rows, args.json)


if __name__ == "__main__":
    main()
