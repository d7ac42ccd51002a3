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


def summed_loss(
    model: BlockRecurrentTransformer,
    features: Float[Array, "B T D"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
) -> Float[Array, " B"]:
    """Nats, summed over the positions of each row by weight.

    Works on chunks of the segment and computes their logits again for the gradient, so that memory
    is that of one chunk however large the vocabulary.
    """
    batch, length, _ = features.shape
    chunks = num_chunks(batch, length, model.config.vocab_size)

    def chunk_loss(features, targets, weights):
        logits = model.readout(features)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return jnp.sum((jax.nn.logsumexp(logits, axis=-1) - chosen) * weights, axis=1)

    if chunks == 1:
        return chunk_loss(features, targets, weights)

    def split(x):
        return jnp.moveaxis(x.reshape(batch, chunks, length // chunks, *x.shape[2:]), 1, 0)

    def step(total, chunk):
        return total + jax.checkpoint(chunk_loss)(*chunk), None

    chunked = (split(features), split(targets), split(weights))
    return jax.lax.scan(step, jnp.zeros(batch), chunked)[0]
