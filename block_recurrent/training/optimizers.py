"""Optimizers and learning-rate schedules (optax), chosen by `OptimizerConfig`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from block_recurrent.config.train_options import OptimizerConfig
from block_recurrent.errors import UserError


def make_optimizer(
    config: OptimizerConfig,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer, and its learning rate as a function of the updates already made.

    Raises:
      UserError: a cosine or linear schedule has no decay_steps. A `RunConfig` always sets them.
    """
    schedule = make_schedule(config)
    make = {"adafactor": adafactor, "adamw": adamw, "muon": muon}[config.name]
    optimizer = make(config, schedule)
    if config.clip_norm is not None:
        optimizer = optax.chain(clip_by_global_norm(config.clip_norm), optimizer)
    return optimizer, schedule


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """min(step / warm-up, 1) · the schedule's value, with step = 1 in the first update.

    Optax counts updates from 0. With that count, the first update of a warm-up has no effect.
    Without a warm-up, the first update has the peak, as after a warm-up of one step.
    """
    if config.ends and config.decay_steps is None:
        raise UserError(f"optimizer.schedule = '{config.schedule}' needs optimizer.decay_steps")
    peak, warmup = config.learning_rate, max(config.warmup_steps, 1)
    decay_steps = max((config.decay_steps or 0) - warmup, 1)
    after = {
        "rsqrt": lambda step: peak * jnp.sqrt(warmup / (warmup + step)),
        "cosine": optax.cosine_decay_schedule(peak, decay_steps, config.end_fraction),
        "linear": optax.linear_schedule(peak, peak * config.end_fraction, decay_steps),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    schedule = optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])
    return lambda count: schedule(count + 1)


def global_norm(grads: Any) -> Float[Array, ""]:
    """L2 norm of all gradients together, summed from the last layer down.

    XLA may schedule the backward pass in the order of this sum. From the last layer down is the
    order in which gradients are computed. In the opposite order, XLA could wait for the gradient of
    the first layer, which is computed last, and keep all other intermediate results until then.
    """
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in reversed(jax.tree.leaves(grads))))


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Optax's transformation of this name, with the `global_norm` above."""

    def clip(grads, _):
        scale = jnp.minimum(1, max_norm / global_norm(grads))
        return jax.tree.map(lambda leaf: scale * leaf, grads)

    return optax.stateless(clip)


def adafactor(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor (Shazeer & Stern 2018) with momentum, as the authors use it."""
    decay = config.weight_decay
    return optax.adafactor(
        schedule,
        decay_rate=0.8,
        multiply_by_parameter_scale=True,
        momentum=config.beta1 or None,
        # In AdamW, Optax multiplies the decay by the learning rate. Here it does not.
        weight_decay_rate=(lambda count: decay * schedule(count)) if decay else None,
        weight_decay_mask=is_kernel,
    )


def adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019)."""
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=is_kernel,
    )


def muon(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the kernels of linear layers, Adafactor for the rest."""
    kernels = optax.contrib.muon(
        schedule, beta=config.beta1, weight_decay=config.weight_decay, consistent_rms=0.2
    )

    def label(params):
        return jax.tree.map(lambda chosen: "kernel" if chosen else "rest", is_kernel(params))

    return optax.partition({"kernel": kernels, "rest": adafactor(config, schedule)}, label)


def is_kernel(params: dict[str, Any]) -> dict[str, Any]:
    """Selects the kernels: the matrices that activations are multiplied with.

    Only they have weight decay. It would pull everything else to a value that means something:
    embeddings and n-gram tables, norms, the scales and biases of attention, biases of gates, and
    the initial states and ids of the recurrent states.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path[-1:], simple=True) == "kernel", params
    )
