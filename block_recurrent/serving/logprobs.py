"""The log-probability of tokens, and the most likely tokens in their places."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

NUM_TOP = 5  # as many as the API can ask for


class TokenScores(NamedTuple):
    """How likely tokens were, in nats. Not affected by temperature or `top_p`.

    Attributes:
      logprob: the log-probability of each token.
      top_ids: the most likely tokens in its place, the most likely one first.
      top_logprobs: their log-probabilities.
    """

    logprob: Float[Array, "*tokens"]
    top_ids: Int[Array, "*tokens top"]
    top_logprobs: Float[Array, "*tokens top"]


def score_tokens(logits: Float[Array, "M L"], tokens: Int[Array, " M"]) -> TokenScores:
    """The scores of one token for each row of logits."""
    logprobs = jax.nn.log_softmax(logits)
    own = jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0]
    top, ids = jax.lax.top_k(logprobs, min(NUM_TOP, logits.shape[1]))
    return TokenScores(own, ids, top)


def no_scores(logits: Float[Array, "M L"], tokens: Int[Array, " M"]) -> TokenScores:
    """Zeros of the same shapes."""
    shapes = jax.eval_shape(score_tokens, logits, tokens)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
