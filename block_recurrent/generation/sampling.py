"""How the next token is chosen from the logits."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.fields import Range, checked

NEVER = -jnp.inf  # logit of a token that must not be chosen


@checked
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws tokens from the softmax of the logits, or takes the most likely ones.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token.
      top_k: draw from the k most likely tokens only; None: from all.
      top_p: draw from the fewest most likely tokens that together have probability p (Holtzman et
        al. 2020), at this temperature and among those that top_k leaves; None: from all.

    Raises:
      UserError: a field has a wrong name, type or value.
    """

    temperature: Annotated[float, Range(0)] = 1.0
    top_k: Annotated[int, Range(1)] | None = None
    top_p: Annotated[float, Range(above=0, most=1)] | None = None

    def __call__(self, logits: Float[Array, "B L"], noise: Float[Array, "B L"]) -> Int[Array, " B"]:
        """One token per row. With Gumbel noise, the largest sum is a draw from the softmax."""
        if self.temperature == 0:
            return greedy(logits)
        logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        return greedy(logits + noise)


def greedy(logits: Float[Array, "B L"]) -> Int[Array, " B"]:
    """The most likely token; of equals the first."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def keep_top_k(logits: Float[Array, "B L"], k: int) -> Float[Array, "B L"]:
    """Keeps the logits that are not below the k-th largest."""
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits >= least, logits, NEVER)


def keep_top_p(logits: Float[Array, "B L"], p: float) -> Float[Array, "B L"]:
    """Keeps the fewest largest logits whose softmax sums to at least p."""
    falling = -jnp.sort(-logits, axis=-1)
    weights = jax.nn.softmax(falling, axis=-1)
    above = jnp.cumsum(weights, axis=-1) - weights  # probability of the more likely tokens
    least = jnp.min(jnp.where(above < p, falling, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, NEVER)
