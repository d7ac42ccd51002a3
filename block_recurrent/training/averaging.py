"""An exponential moving average of the parameters."""

import math
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int


def update_average(
    average: dict[str, Any], params: dict[str, Any], updates: Int[Array, ""], decay: float
) -> dict[str, Any]:
    """Adds the parameters after an update to their average.

    After t updates, a_t = Σ_i β^(t − i) · p_i / Σ_i β^(t − i), with p_i the parameters after update
    i = 1, …, t. The weights sum to one from the first update on, where the average equals the
    parameters, so initial values have no part in it. As a recurrence,
    a_t = a_(t−1) + s · (p_t − a_(t−1)) with s = (1 − β) / (1 − β^t).

    Args:
      average: the average before the update.
      params: the parameters after the update.
      updates: the number of updates t, with this one.
      decay: β.
    """
    # `expm1` keeps the digits of 1 − β^t that are lost in β^t if β is close to 1.
    step_size = (decay - 1) / jnp.expm1(updates * math.log(decay))
    step_size = jnp.where(updates > 1, step_size, 1.0)  # exactly, and without a division by zero
    return optax.incremental_update(params, average, step_size)
