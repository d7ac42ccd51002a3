"""Worker: training steps and forward passes of the block_recurrent in the same checkout."""

import jax
import numpy as np
import optax
from flax import nnx
from jax_step import compiled, device_peak, filled, num_parameters
from serve import arguments, serve

from block_recurrent import ModelConfig
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.data.lanes import Batch
from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.model import losses
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training import train_step
from block_recurrent.training.device_memory import compiler_options


def build(spec: dict):
    """The measures, the compiled step, and facts about it."""
    batch_size, length = spec["batch_size"], spec["segment_length"]
    devices = spec.get("devices", 1)
    jax.config.update("jax_num_cpu_devices", devices)  # before JAX looks for devices
    model = spec["model"] | {"recurrent_layers": tuple(spec["model"]["recurrent_layers"])}
    config = ModelConfig(**model)
    graphdef, _ = abstract_model(config)
    layout = Layout(make_mesh(MeshConfig(), config, batch_size, jax.devices()[:devices]))
    optimizer = optax.adamw(1e-3)
    init = train_step.init_function(config, optimizer, batch_size, seed=0)
    abstract = jax.eval_shape(init)
    shardings = train_step.state_shardings(layout, abstract)
    state = filled(abstract)
    state = state._replace(optimizer=optimizer.init(state.params))
    state = jax.device_put(state, shardings)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, length + 1))
    batch = Batch(
        inputs=tokens[:, :-1].astype(np.int32),
        targets=tokens[:, 1:].astype(np.int32),
        weights=np.ones((batch_size, length), np.float32),
        starts=np.zeros((batch_size, length // config.window_length), bool),
    )
    batch = layout.put(batch)
    microbatches = spec.get("microbatches", 1)
    step = train_step.make_train_step(graphdef, optimizer, 10, layout, microbatches)
    step, facts = compiled(
        step,
        state,
        batch,
        donate_argnums=0,
        out_shardings=(shardings, layout.replicated),
        compiler_options=compiler_options(config.remat, jax.default_backend()),
    )
    facts["parameters"] = num_parameters(state.params)
    holder = [state]

    def train():
        holder[0], sums = step(holder[0], batch)
        jax.block_until_ready((holder[0], sums))

    def forward_loss(params, model_state, batch):
        model = nnx.merge(graphdef, params)
        features, model_state = model.features(batch.inputs, model_state, batch.starts)
        summed = losses.summed_loss(model, features, batch.targets, batch.weights)
        return summed.sum() / batch.weights.sum(), model_state

    def compiled_forward():
        forward, _ = compiled(forward_loss, state.params, state.model, batch)
        return lambda: jax.block_until_ready(forward(holder[0].params, holder[0].model, batch))

    measures = {}
    if facts["temporary_bytes"] <= spec.get("max_temporary_bytes", float("inf")):
        names = spec.get("measures", ["train", "forward"])
        if "train" in names:
            measures["train"] = train
        if "forward" in names:
            measures["forward"] = compiled_forward()
    return measures, step, facts


if __name__ == "__main__":
    keep_freed_memory()  # as the commands do
    measures, _, facts = build(arguments())
    serve(measures, device_peak, **facts)
