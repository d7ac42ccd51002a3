"""Hashed embeddings of n-grams, which tell a layer what the last few tokens were."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

LONGEST = 4  # n-grams of 2, 3, … tokens up to this many
CONTEXT = LONGEST - 1  # tokens before a segment that its n-grams contain
# Odd 32-bit multipliers, from xxHash and MurmurHash3.
FIRST_MULTIPLIER, SECOND_MULTIPLIER = np.uint32([0x9E3779B1, 0x85EBCA6B])


class NGramEmbedding(nnx.Module):
    """The sum of the embeddings of the 2-, 3- and 4-gram that end at each token.

    Each length has a table of its own. The row of an n-gram is a hash of its tokens, so n-grams may
    share a row. This is not part of the paper; Pagnoni et al. 2024 (arXiv 2412.09871) embed longer
    n-grams of bytes similarly.

    Args:
      rows: rows R of each table.
      size: width D.
      param_dtype: type of the parameters.
      rngs: random keys for the initial parameters.
    """

    def __init__(self, rows: int, size: int, param_dtype: str = "float32", *, rngs: nnx.Rngs):
        shape = CONTEXT * rows, size
        self.rows = rows
        self.embedding = nnx.Param(nnx.initializers.normal(0.1)(rngs.params(), shape, param_dtype))

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        before: Int[Array, "B C"],
        starts: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B T D"]:
        """The embeddings of a segment.

        Args:
          tokens: a segment.
          before: the 3 tokens before it.
          starts: whether a block starts a document; the tokens before it then count as 0.
        """
        texts = jnp.concatenate([before, tokens], axis=1)[:, None]
        if starts is not None:
            blocks = tokens.reshape(*starts.shape, -1)
            before = jnp.concatenate([before[:, None], blocks[:, :-1, -CONTEXT:]], axis=1)
            before = jnp.where(starts[..., None], 0, before)
            texts = jnp.concatenate([before, blocks], axis=2)
        rows = self.rows_of(texts)
        vectors = jnp.take(self.embedding[...], rows, axis=0).sum(axis=0, dtype=jnp.float32)
        return vectors.reshape(*tokens.shape, -1)

    def rows_of(self, tokens: Int[Array, "B N CW"]) -> Int[Array, "3 B N W"]:
        """The rows of the n-grams of each length, where each block follows 3 earlier tokens."""
        tokens = tokens.astype(jnp.uint32)
        length = tokens.shape[2] - CONTEXT
        hashed, rows = tokens[..., CONTEXT:], []
        for back in range(1, LONGEST):
            earlier = tokens[..., CONTEXT - back : CONTEXT - back + length]
            hashed = (hashed * FIRST_MULTIPLIER + earlier + np.uint32(1)) * SECOND_MULTIPLIER
            row = (hashed ^ (hashed >> 15)) % np.uint32(self.rows)
            rows.append(np.uint32((back - 1) * self.rows) + row)
        return jnp.stack(rows).astype(jnp.int32)
