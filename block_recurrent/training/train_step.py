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
from block_recurrent.ops.segment_parts import in_all_parts, is_first_part
from block_recurrent.parallel.sharding import Layout
from block_recurrent.training.averaging import update_average
from block_recurrent.training.microbatches import Gradients, in_microbatches
from block_recurrent.training.optimizers import global_norm
from block_recurrent.types import ModelState


class MetricSums(NamedTuple):
    """Sums over the finite steps since metrics were last written; `nonfinite` counts the others."""

    nats: Float[Array, ""]
    tokens: Float[Array, ""]
    grad_norm: Float[Array, ""]
    steps: Float[Array, ""]
    nonfinite: Float[Array, ""]


class StepMetrics(NamedTuple):
    """What a step returns to the host.

    Attributes:
      sums: sums since metrics were last written.
      loss: loss of this step, in nats per token.
      grad_norm: gradient norm of this step.
      nonfinite: number of consecutive steps, up to this one, that were not finite.
      updates: number of updates that the optimizer has made. Steps that were not finite made none.
    """

    sums: MetricSums
    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    nonfinite: Int[Array, ""]
    updates: Int[Array, ""]


class TrainState(NamedTuple):
    """Everything that a step reads and writes. A checkpoint is a `TrainState` and a `LanePosition`.

    Attributes:
      step: number of steps done.
      params: parameters of the model.
      optimizer: state of the optimizer.
      model: state that the model carries from segment to segment, for each lane.
      finite: which lanes of `model` are finite. The others restart in their next step.
      sums: sums since metrics were last written.
      nonfinite: number of consecutive steps, up to this one, that were not finite.
      key: random key of dropout.
      averaged: moving average of the parameters; None without `train.average_decay`.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    optimizer: optax.OptState
    model: ModelState
    finite: Bool[Array, " lanes"]
    sums: MetricSums
    nonfinite: Int[Array, ""]
    key: UInt32[Array, "2"]
    averaged: dict[str, Any] | None = None


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def init_function(
    config: ModelConfig,
    optimizer: optax.GradientTransformation,
    num_lanes: int,
    seed: int,
    averages: bool = False,
) -> Callable[[], TrainState]:
    """Returns a function without arguments that makes the first state, for `jit`, `eval_shape`.

    No lane of it counts as `finite`. So each lane starts in its first step, wherever in a document
    it begins.
    """

    def init() -> TrainState:
        init_key, key = jax.random.split(jax.random.key(seed))
        model = BlockRecurrentTransformer(config, rngs=nnx.Rngs(params=init_key))
        params = parameters(model)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            optimizer=optimizer.init(in_float32(params)),
            model=model.initial_state(num_lanes),
            finite=jnp.zeros(num_lanes, bool),
            sums=MetricSums(*jnp.zeros((5,))),
            nonfinite=jnp.zeros((), jnp.int32),
            key=jax.random.key_data(key),
            averaged=in_float32(params) if averages else None,
        )

    return init


def in_float32(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, or their gradients, as the optimizer and the average need them."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


@contextlib.contextmanager
def use_threefry_kernel() -> Iterator[None]:
    """Makes JAX draw random numbers on a GPU with its own kernel. The numbers are the same.

    Otherwise XLA compiles the generator for every use. For `init_function` with 12 layers, that
    takes two minutes.
    """
    name = "jax_threefry_gpu_kernel_lowering"
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    try:
        yield
    finally:
        jax.config.update(name, before)


def state_shardings(layout: Layout, abstract: TrainState) -> TrainState:
    """A `TrainState` of shardings: parameters by rule, model state by rows, the rest replicated."""
    return jax.tree.map(lambda _: layout.replicated, abstract)._replace(
        params=layout.parameters(abstract.params),
        optimizer=layout.parameters(abstract.optimizer),
        model=layout.model_state(abstract.model),
        finite=layout.rows,
        averaged=layout.parameters(abstract.averaged),
    )


def make_gradients(graphdef: nnx.GraphDef, layout: Layout, microbatches: int) -> Gradients:
    """Returns the gradients of the loss of a batch, in nats per token, in float32.

    It is a function of the parameters, the memory of the rows (`TrainState.model` and `finite`),
    the batch, and what all rows share: the tokens of the whole batch, and the dropout key. Its
    other results are the nats of each row, and the memory after the batch. The rows share their
    dropout masks, so all `microbatches` parts use the same key.
    """

    def loss(params, memory, batch, shared):
        model = nnx.merge(graphdef, params)
        model_state, finite = memory
        tokens, dropout_key = shared
        restart = ~finite & is_first_part(model.sequence_axis)
        starts = batch.starts.at[:, 0].set(batch.starts[:, 0] | restart)
        features, model_state = model.features(
            batch.inputs, zero_other_rows(finite, model_state), starts, dropout_key=dropout_key
        )
        with jax.named_scope("loss"):
            nats = summed_loss(model, features, batch.targets, batch.weights)
        finite = in_all_parts(finite_rows(nats, model_state), model.sequence_axis)
        memory = jax.lax.stop_gradient(model_state), finite
        return nats.sum() / jnp.maximum(tokens, 1), (nats[:, None], memory)

    def of_part(*arguments):
        grads, results = jax.grad(loss, has_aux=True)(*arguments)
        return in_float32(grads), results

    of_rows = in_microbatches(of_part, microbatches)

    def gradients(params, memory, batch, shared):
        run = layout.gradients_by_parts(of_rows)
        return run(layout.gather(params), memory, batch, shared)

    return gradients


def make_update(
    optimizer: optax.GradientTransformation, layout: Layout, average_decay: float | None
) -> Callable[[TrainState, dict[str, Any]], tuple[Any, optax.OptState, Any]]:
    """Returns a function that makes an update with the gradients of a batch.

    Its results are the parameters, the state of the optimizer, and the average of the parameters.
    """

    def update(state: TrainState, grads: dict[str, Any]):
        updates, optimizer_state = optimizer.update(
            layout.scatter(grads), state.optimizer, in_float32(state.params)
        )
        params = optax.apply_updates(state.params, updates)
        if average_decay is None:
            return params, optimizer_state, None
        count = count_updates(optimizer_state)
        averaged = update_average(state.averaged, params, count, average_decay)
        return params, optimizer_state, averaged

    return update


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    log_every_steps: int,
    layout: Layout,
    microbatches: int = 1,
    average_decay: float | None = None,
) -> TrainStep:
    """Returns the training step for one lane per row; for more lanes, see `turns.in_turns`.

    The gradients are those of the whole batch, even if `microbatches` parts of its rows are
    computed one after the other. It resets its sums every `log_every_steps` steps.

    If the loss, the gradient or the recurrent state is not finite, the step does not change the
    parameters and the optimizer, and only counts itself in `nonfinite`. The next step restarts the
    rows that were not finite, as at the start of a document.
    """
    gradients = make_gradients(graphdef, layout, microbatches)
    update = make_update(optimizer, layout, average_decay)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        tokens = batch.weights.sum()
        grads, (nats, (model_state, rows)) = gradients(
            state.params, (state.model, state.finite), batch, (tokens, key)
        )
        nats = nats.sum()
        grad_norm = global_norm(grads)
        finite = rows.all() & jnp.isfinite(grad_norm)
        if_finite = functools.partial(jax.tree.map, functools.partial(jnp.where, finite))
        with jax.named_scope("optimizer"):
            params, optimizer_state, averaged = if_finite(
                update(state, grads), (state.params, state.optimizer, state.averaged)
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
            averaged=averaged,
        )
        made = count_updates(optimizer_state)
        loss = nats / jnp.maximum(tokens, 1)
        return after, StepMetrics(sums, loss, grad_norm, nonfinite, updates=made)

    return train_step


def count_updates(optimizer: optax.OptState) -> Int[Array, ""]:
    """The number of updates that the optimizer has made. All its parts have the same count."""
    return optax.tree.get_all_with_path(optimizer, "count")[0][1]


def finite_rows(nats: Float[Array, " B"], state: ModelState) -> Bool[Array, " B"]:
    """Returns which rows have a finite loss and finite recurrent states.

    The caches need no check: if a key or value is not finite, neither is the loss.
    """
    finite = jnp.isfinite(nats)
    for layer in state:
        if layer.recurrent is not None:
            finite &= jnp.isfinite(layer.recurrent).all(axis=(1, 2))
    return finite


def zero_other_rows(rows: Bool[Array, " B"], state: ModelState) -> ModelState:
    """Keeps the state of these rows and sets the others to zero."""

    def choose(leaf):
        return jnp.where(rows.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    return jax.tree.map(choose, state)
