"""Next-token cross-entropy that never holds the logits of a whole segment in training."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from block_recurrent.model import BlockRecurrentTransformer

MAX_LOGITS = 2**25  # of one chunk: 128 MiB of float32


def num_chunks(batch: int, length: int, vocab_size: int) -> int:
    """Fewest equal chunks of the segment whose logits number at most `MAX_LOGITS`."""
    return next(
        n
        for n in range(1, length + 1)
        if length % n == 0 and (batch * vocab_size * length // n <= MAX_LOGITS or n == length)
    )


def token_losses(
    model: BlockRecurrentTransformer,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
) -> Float[Array, "B T"]:
    """Nats that each target costs.

    Works on chunks of the segment and computes their logits again for the gradient, so that memory
    is that of one chunk however large the vocabulary.
    """
    batch, length, _ = features.shape
    chunks = num_chunks(batch, length, model.config.vocab_size)

    def chunk_losses(features, targets):
        logits = model.readout(features)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    if chunks == 1:
        return chunk_losses(features, targets)

    def split(x):
        return jnp.moveaxis(x.reshape(batch, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def step(_, chunk):
        return None, jax.checkpoint(chunk_losses)(*chunk)

    _, losses = jax.lax.scan(step, None, (split(features), split(targets)))
    return jnp.moveaxis(losses, 0, 1).reshape(batch, length)


def summed_loss(
    model: BlockRecurrentTransformer,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, " B"]:
    """Nats, summed over the positions of each row by weight; see `token_losses`."""
    return jnp.sum(token_losses(model, features, targets) * weights, axis=1)
