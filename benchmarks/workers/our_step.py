"""A training step of the block_recurrent in the same checkout, and its first arguments."""

import jax
import numpy as np
import optax
from jax_step import compiled, filled

from block_recurrent import ModelConfig
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.data.lanes import Batch
from block_recurrent.model.transformer import abstract_model
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training import train_step
from block_recurrent.training.device_memory import compiler_options


class Workload:
    """A training step, not yet compiled, and its first arguments.

    Args:
      spec: batch_size, segment_length, model, and possibly devices and microbatches.
    """

    def __init__(self, spec: dict):
        batch_size, length = spec["batch_size"], spec["segment_length"]
        devices = spec.get("devices", 1)
        jax.config.update("jax_num_cpu_devices", devices)  # before JAX looks for devices
        self.config = ModelConfig(**spec["model"])
        self.graphdef, _ = abstract_model(self.config)
        mesh = make_mesh(MeshConfig(), self.config, batch_size, jax.devices()[:devices])
        self.layout = Layout(mesh)
        optimizer = optax.adamw(1e-3)
        init = train_step.init_function(self.config, optimizer, batch_size, seed=0)
        abstract = jax.eval_shape(init)
        self.shardings = train_step.state_shardings(self.layout, abstract)
        state = filled(abstract)
        state = state._replace(optimizer=optimizer.init(state.params))
        self.state = jax.device_put(state, self.shardings)
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, self.config.vocab_size, (batch_size, length + 1))
        batch = Batch(
            inputs=tokens[:, :-1].astype(np.int32),
            targets=tokens[:, 1:].astype(np.int32),
            weights=np.ones((batch_size, length), np.float32),
            starts=np.zeros((batch_size, length // self.config.window_length), bool),
        )
        self.batch = self.layout.put(batch)
        microbatches = spec.get("microbatches", 1)
        self.step = train_step.make_train_step(
            self.graphdef, optimizer, 10, self.layout, microbatches
        )

    def compile_step(self):
        """The compiled step, which donates the state, and facts about it."""
        return compiled(
            self.step,
            self.state,
            self.batch,
            donate_argnums=0,
            out_shardings=(self.shardings, self.layout.replicated),
            compiler_options=compiler_options(self.config.remat, jax.default_backend()),
        )
