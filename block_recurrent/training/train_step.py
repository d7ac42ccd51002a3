"""One optimizer step as a pure function of `TrainState` and batch."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt32

from block_recurrent.data.lanes import Batch
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.losses import summed_loss
from block_recurrent.model.transformer import BlockRecurrentTransformer, parameters
from block_recurrent.parallel.sharding import Layout
from block_recurrent.training.optimizers import global_norm
from block_recurrent.types import ModelState


class MetricSums(NamedTuple):
    """Sums over the finite steps since the last line of metrics, and the number of the others."""

    nats: Float[Array, ""]
    tokens: Float[Array, ""]
    grad_norm: Float[Array, ""]
    steps: Float[Array, ""]
    nonfinite: Float[Array, ""]


class StepMetrics(NamedTuple):
    """What a step tells the host.

    Attributes:
      sums: since the last line of metrics.
      loss: of this step, nats a token.
      grad_norm: of this step.
      nonfinite: steps in a row up to this one that were not finite.
    """

    sums: MetricSums
    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    nonfinite: Int[Array, ""]


class TrainState(NamedTuple):
    """Everything that a step reads and writes; a checkpoint is this and the data position.

    Attributes:
      finite: the rows of `model` that are, and that the next step goes on from.
      nonfinite: steps in a row up to this one that were not finite.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    optimizer: optax.OptState
    model: ModelState
    finite: Bool[Array, " B"]
    sums: MetricSums
    nonfinite: Int[Array, ""]
    key: UInt32[Array, "2"]


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
            finite=jnp.ones(batch_size, bool),
            sums=MetricSums(*jnp.zeros((5,))),
            nonfinite=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(key),
        )

    return init


@contextlib.contextmanager
def random_kernels() -> Iterator[None]:
    """On a GPU, for `init_function`: random numbers by a kernel of JAX's, and the same numbers.

    Left to XLA they are compiled anew wherever they are drawn: two minutes for 12 layers.
    """
    name = "jax_threefry_gpu_kernel_lowering"
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def state_shardings(layout: Layout, abstract: TrainState) -> TrainState:
    """A `TrainState` of shardings: parameters by rule, model state by rows, the rest everywhere."""
    return jax.tree.map(lambda _: layout.replicated, abstract)._replace(
        params=layout.parameters(abstract.params),
        optimizer=layout.parameters(abstract.optimizer),
        model=layout.model_state(abstract.model),
        finite=layout.rows,
    )


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    log_every_steps: int,
    layout: Layout,
) -> Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]:
    """The step. Its sums begin anew after every `log_every_steps` steps, without the host.

    A step whose loss, gradient or recurrent state is not finite counts itself and leaves the
    parameters and the optimizer as they were. A row that was not finite begins anew in the next
    step, as at a document's start.
    """

    def nats_of_rows(params, carried, batch, dropout_key):
        model = nnx.merge(graphdef, params)
        model_state, finite = carried
        starts = batch.starts.at[:, 0].set(batch.starts[:, 0] | ~finite)
        features, model_state = model.features(
            batch.inputs, only(finite, model_state), starts, dropout_key=dropout_key
        )
        with jax.named_scope("loss"):
            nats = summed_loss(model, features, batch.targets, batch.weights)
        return nats, (model_state, finite_rows(nats, model_state))

    def loss_fn(params, carried, batch, dropout_key):
        nats, carried = layout.by_rows(nats_of_rows)(
            layout.gather(params), carried, batch, dropout_key
        )
        nats, tokens = nats.sum(), batch.weights.sum()
        return nats / jnp.maximum(tokens, 1), (nats, tokens, carried)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        carried = state.model, state.finite
        (loss, (nats, tokens, carried)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, carried, batch, key
        )
        model_state, rows = carried
        grad_norm = global_norm(grads)
        finite = rows.all() & jnp.isfinite(grad_norm)
        if_finite = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(
                layout.scatter(grads), state.optimizer, state.params
            )
            params, optimizer_state = if_finite(
                (optax.apply_updates(state.params, updates), optimizer_state),
                (state.params, state.optimizer),
            )
        fresh = state.step % log_every_steps == 0
        new = if_finite(
            MetricSums(nats, tokens, grad_norm, 1.0, 0.0), MetricSums(0.0, 0.0, 0.0, 0.0, 1.0)
        )
        sums = jax.tree.map(lambda old, add: jnp.where(fresh, 0, old) + add, state.sums, new)
        nonfinite = jnp.where(finite, 0, state.nonfinite + 1)
        after = TrainState(
            step=state.step + 1,
            params=params,
            optimizer=optimizer_state,
            model=model_state,
            finite=rows,
            sums=sums,
            nonfinite=nonfinite,
            key=state.key,
        )
        return after, StepMetrics(sums, loss, grad_norm, nonfinite)

    return train_step


def finite_rows(nats: Float[Array, " B"], state: ModelState) -> Bool[Array, " B"]:
    """Whether loss and recurrent states of a row are finite. Its caches are in the loss."""
    finite = jnp.isfinite(nats)
    for layer in state:
        if layer.recurrent is not None:
            finite &= jnp.isfinite(layer.recurrent).all(axis=(1, 2))
    return finite


def only(rows: Bool[Array, " B"], state: ModelState) -> ModelState:
    """The state of these rows, zeros elsewhere."""

    def choose(leaf):
        return jnp.where(rows.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    return jax.tree.map(choose, state)
