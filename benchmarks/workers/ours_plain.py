"""Worker: the training loop of docs/modules.md, as a program that imports the modules writes it."""

import jax
import numpy as np
import optax
from flax import nnx
from jax_step import device_peak, num_parameters
from serve import arguments, serve

from block_recurrent import BlockRecurrentTransformer, ModelConfig


def build(spec: dict):
    """The measure of a training step, and facts about it."""
    config = ModelConfig(**spec["model"])
    model = BlockRecurrentTransformer(config, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(params, optimizer_state, state, tokens):
        def loss_fn(params):
            logits, after = nnx.merge(graphdef, params)(tokens[:, :-1], state)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return loss.mean(), after

        (loss, after), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, optimizer_state = optimizer.update(grads, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state, after, loss

    shape = spec["batch_size"], spec["segment_length"] + 1
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, shape, np.int32)
    carried = params, optimizer.init(params), model.initial_state(spec["batch_size"])

    def train():
        nonlocal carried
        *carried, loss = step(*carried, tokens)
        float(loss)

    return {"train": train}, {"parameters": num_parameters(params)}


if __name__ == "__main__":
    measures, facts = build(arguments())
    serve(measures, device_peak, **facts)
