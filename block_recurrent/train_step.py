"""One optimizer step as a pure function of `TrainState` and batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt32

from block_recurrent.data.lanes import Batch
from block_recurrent.losses import summed_loss
from block_recurrent.model import BlockRecurrentTransformer
from block_recurrent.model_config import ModelConfig
from block_recurrent.sharding import Layout
from block_recurrent.types import ModelState


class Sums(NamedTuple):
    """Sums over the steps since the last line of metrics."""

    nats: Float[Array, ""]
    tokens: Float[Array, ""]
    grad_norm: Float[Array, ""]
    steps: Float[Array, ""]


class TrainState(NamedTuple):
    """Everything that a step reads and writes; a checkpoint is this and the data position."""

    step: Int[Array, ""]
    params: dict[str, Any]
    optimizer: optax.OptState
    model: ModelState
    sums: Sums
    key: UInt32[Array, "2"]


def parameters(model: BlockRecurrentTransformer) -> dict[str, Any]:
    """The model's parameters as a pure dict of arrays: cheap to pass through `jax.jit`."""
    return nnx.to_pure_dict(nnx.state(model))


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model's structure, and its parameters as shapes; nothing is computed."""
    model = nnx.eval_shape(lambda: BlockRecurrentTransformer(config, rngs=nnx.Rngs(0)))
    return nnx.graphdef(model), parameters(model)


def init_function(
    config: ModelConfig, optimizer: optax.GradientTransformation, batch_size: int, seed: int
) -> Callable[[], TrainState]:
    """A function without arguments that makes the first state: for `jit` and for `eval_shape`."""

    def init() -> TrainState:
        init_key, key = jax.random.split(jax.random.key(seed))
        model = BlockRecurrentTransformer(config, rngs=nnx.Rngs(params=init_key))
        params = parameters(model)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            optimizer=optimizer.init(params),
            model=model.initial_state(batch_size),
            sums=Sums(*jnp.zeros((4,))),
            key=jax.random.key_data(key),
        )

    return init


def state_shardings(layout: Layout, abstract: TrainState) -> TrainState:
    """A `TrainState` of shardings: parameters by rule, model state by rows, the rest everywhere."""
    return jax.tree.map(lambda _: layout.replicated, abstract)._replace(
        params=layout.parameters(abstract.params),
        optimizer=layout.parameters(abstract.optimizer),
        model=layout.model_state(abstract.model),
    )


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    log_every_steps: int,
    layout: Layout,
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """The step. Its sums begin anew after every `log_every_steps` steps, without the host."""

    def nats_of_rows(params, model_state, batch, dropout_key):
        model = nnx.merge(graphdef, params)
        features, model_state = model.features(
            batch.inputs, model_state, batch.starts, dropout_key=dropout_key
        )
        return summed_loss(model, features, batch.targets, batch.weights), model_state

    def loss_fn(params, model_state, batch, dropout_key):
        nats, model_state = layout.by_rows(nats_of_rows)(
            layout.gather(params), model_state, batch, dropout_key
        )
        nats, tokens = nats.sum(), batch.weights.sum()
        return nats / jnp.maximum(tokens, 1), (nats, tokens, model_state)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (_, (nats, tokens, model_state)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.model, batch, key
        )
        updates, optimizer_state = optimizer.update(
            layout.scatter(grads), state.optimizer, state.params
        )
        fresh = state.step % log_every_steps == 0
        new = Sums(nats, tokens, optax.tree.norm(grads), jnp.ones(()))
        sums = jax.tree.map(lambda old, add: jnp.where(fresh, 0, old) + add, state.sums, new)
        after = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            optimizer=optimizer_state,
            model=model_state,
            sums=sums,
            key=state.key,
        )
        return after, sums

    return train_step
