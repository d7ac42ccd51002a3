"""Next-token cross-entropy, in chunks, so that a large segment's logits are never all in memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.model.transformer import BlockRecurrentTransformer

MAX_LOGITS = 2**25  # per chunk: 128 MiB of float32


def num_chunks(batch: int, length: int, vocab_size: int) -> int:
    """The smallest number of equal chunks with at most `MAX_LOGITS` logits each."""
    return next(
        n
        for n in range(1, length + 1)
        if length % n == 0 and (batch * vocab_size * length // n <= MAX_LOGITS or n == length)
    )


class TokenScores(NamedTuple):
    """How well each target is predicted.

    Attributes:
      nats: the cross-entropy of the target.
      correct: 1 if no other token has a higher probability, else 0.
    """

    nats: Float[Array, "B T"]
    correct: Float[Array, "B T"]


def token_scores(
    model: BlockRecurrentTransformer,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
) -> TokenScores:
    """Scores each target.

    Processes the segment in chunks and recomputes their logits in the backward pass. The logits of
    only one chunk are in memory at a time.
    """
    batch, length, _ = features.shape
    chunks = num_chunks(batch, length, model.config.vocab_size)

    def chunk_scores(features, targets):
        logits = model.readout(features)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        nats = jax.nn.logsumexp(logits, axis=-1) - chosen
        return TokenScores(nats, (chosen >= logits.max(axis=-1)).astype(jnp.float32))

    if chunks == 1:
        return chunk_scores(features, targets)

    def split(x):
        return jnp.moveaxis(x.reshape(batch, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def step(_, chunk):
        return None, jax.checkpoint(chunk_scores)(*chunk)

    _, scores = jax.lax.scan(step, None, (split(features), split(targets)))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(batch, length), scores)


def summed_loss(
    model: BlockRecurrentTransformer,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, " B"]:
    """Weighted sum of the cross-entropy of each row, in nats; see `token_scores`."""
    return jnp.sum(token_scores(model, features, targets).nats * weights, axis=1)
