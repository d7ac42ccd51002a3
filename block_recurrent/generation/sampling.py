"""How the next token is chosen from the logits."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.errors import UserError

NEVER = -jnp.inf  # logit of a token that is not to be chosen


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws from the softmax of the logits, or takes the likeliest.

    Attributes:
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: only the k likeliest tokens; None: all.
      top_p: only the likeliest tokens that together have probability p (Holtzman et al. 2020), of
        those that top_k leaves and at this temperature; None: all.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature = {self.temperature}: give a number from 0")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k = {self.top_k}: give 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: give a number above 0 and up to 1")

    def __call__(self, logits: Float[Array, "B L"], noise: Float[Array, "B L"]) -> Int[Array, " B"]:
        """Choose a token for each row.

        Adding Gumbel noise and taking the largest sum draws from the softmax of the logits.
        """
        if self.temperature == 0:
            return greedy(logits)
        # Subtract the maximum first: dividing by a tiny temperature would overflow.
        logits = logits - logits.max(axis=-1, keepdims=True)
        logits = logits / max(self.temperature, float(jnp.finfo(logits.dtype).tiny))
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        return greedy(logits + noise)


def greedy(logits: Float[Array, "B L"]) -> Int[Array, " B"]:
    """The likeliest token, the first among equals."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def keep_top_k(logits: Float[Array, "B L"], k: int) -> Float[Array, "B L"]:
    """Only logits not below the k-th largest."""
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits >= least, logits, NEVER)


def keep_top_p(logits: Float[Array, "B L"], p: float) -> Float[Array, "B L"]:
    """Only the fewest largest logits whose softmax sums to at least p."""
    falling = -jnp.sort(-logits, axis=-1)
    weights = jax.nn.softmax(falling, axis=-1)
    above = jnp.cumsum(weights, axis=-1) - weights  # what the likelier ones have together
    least = jnp.min(jnp.where(above < p, falling, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, NEVER)
