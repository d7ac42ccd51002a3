"""Choose the next token from the logits."""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.fields import Range, checked

EXCLUDED = -jnp.inf  # logit of a token that must not be chosen
# Below this temperature, dividing could overflow, or make logits equal that differ in their last
# digits, so the maximum is subtracted first. At higher temperatures it is not, because finding the
# maximum takes time.
COLD = 1e-3


@checked
@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sample from the softmax of the logits, or take the most likely token.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token.
      top_k: sample only from the k most likely tokens; None: from all.
      top_p: nucleus sampling (Holtzman et al. 2020): sample only from the smallest set of most
        likely tokens whose probabilities sum to at least p, after temperature and top_k; None: from
        all.
    """

    temperature: Annotated[float, Range(0)] = 1.0
    top_k: Annotated[int, Range(1)] | None = None
    top_p: Annotated[float, Range(above=0, most=1)] | None = None

    def __call__(self, logits: Float[Array, "B L"], noise: Float[Array, "B L"]) -> Int[Array, " B"]:
        """Choose a token for each row.

        Adding Gumbel noise and taking the largest sum draws from the softmax of the logits.
        """
        if self.temperature == 0:
            return greedy(logits)
        if self.temperature < COLD:
            logits = logits - logits.max(axis=-1, keepdims=True)
        logits = logits / max(self.temperature, float(jnp.finfo(logits.dtype).tiny))
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        return greedy(logits + noise)


class RowSampling(NamedTuple):
    """As `Sampling`, with a temperature and a `top_p` of its own in each row.

    What a row gets does not depend on the other rows.

    Attributes:
      temperature: divides the logits; 0 takes the most likely token.
      top_p: nucleus sampling; 1 samples from all tokens.
    """

    temperature: Float[Array, " B"]
    top_p: Float[Array, " B"]

    def __call__(self, logits: Float[Array, "B L"], noise: Float[Array, "B L"]) -> Int[Array, " B"]:
        """Choose a token for each row."""
        temperature, p = self.temperature[:, None], self.top_p[:, None]
        cold = jnp.where(temperature < COLD, logits.max(axis=-1, keepdims=True), 0)
        scaled = (logits - cold) / jnp.maximum(temperature, jnp.finfo(logits.dtype).tiny)
        scaled = jax.lax.cond(
            (p < 1).any(),
            lambda x: jnp.where(p < 1, keep_top_p(x, p), x),
            lambda x: x,
            scaled,
        )
        return jnp.where(self.temperature == 0, greedy(logits), greedy(scaled + noise))


def greedy(logits: Float[Array, "B L"]) -> Int[Array, " B"]:
    """The most likely token of each row; the first one if several are equal."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def keep_top_k(logits: Float[Array, "B L"], k: int) -> Float[Array, "B L"]:
    """Exclude logits below the k-th largest."""
    least = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits >= least, logits, EXCLUDED)


def keep_top_p(logits: Float[Array, "B L"], p: float | Float[Array, "B 1"]) -> Float[Array, "B L"]:
    """Keep the smallest set of largest logits whose softmax sums to at least p."""
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities  # of the more likely tokens
    least = jnp.min(jnp.where(before < p, descending, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, EXCLUDED)
