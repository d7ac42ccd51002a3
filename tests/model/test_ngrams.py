"""N-gram embeddings: which tokens they contain, and which row an n-gram gets."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from block_recurrent import ModelConfig, UserError
from block_recurrent.model.ngrams import CONTEXT, LONGEST, NGramEmbedding
from close import assert_close
from tiny import make_tokens

ROWS, W = 40, 8


def row_of(ngram: list[int]) -> int:
    """The row of an n-gram in the table of its length, with Python's integers."""
    hashed = ngram[-1]
    for token in ngram[-2::-1]:
        hashed = (hashed * 0x9E3779B1 + token + 1) * 0x85EBCA6B % 2**32
    return (hashed ^ (hashed >> 15)) % ROWS


def by_definition(ngrams: NGramEmbedding, text: list[int]) -> np.ndarray:
    """Embeddings of a document's tokens, one by one; zeros precede it."""
    text = [0] * CONTEXT + text
    tables = np.asarray(ngrams.embedding[...]).reshape(LONGEST - 1, ROWS, -1)
    return np.stack(
        [
            sum(tables[n - 2, row_of(text[end - n : end])] for n in range(2, LONGEST + 1))
            for end in range(CONTEXT + 1, len(text) + 1)
        ]
    )


def test_embeddings_equal_their_definition():
    """Over segments, with a document that starts inside one and another that goes on."""
    ngrams = NGramEmbedding(ROWS, 6, rngs=nnx.Rngs(0))
    text = np.asarray(make_tokens(2, 6 * W))
    starts = np.zeros((2, 6), bool)
    starts[0, [1, 4]] = True
    found, before = [], jnp.zeros((2, CONTEXT), jnp.int32)
    for first, last in [(0, 3), (3, 6)]:
        tokens = jnp.asarray(text[:, first * W : last * W])
        found.append(ngrams(tokens, before, jnp.asarray(starts[:, first:last])))
        before = tokens[:, -CONTEXT:]
    found = np.concatenate(found, axis=1)
    for row, bounds in [(0, (0, W, 4 * W, 6 * W)), (1, (0, 6 * W))]:
        for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
            expected = by_definition(ngrams, text[row, begin:end].tolist())
            assert_close(found[row, begin:end], expected, terms=3)


@pytest.mark.parametrize("rows", [40, 64])
def test_ngrams_are_spread_over_the_rows(rows):
    """Real n-grams differ in few bits, and must not share rows more often than by chance."""
    letters = np.arange(64, 128)
    texts = np.zeros((letters.size**2, 1, CONTEXT + 1), np.int32)
    texts[:, 0, -2:] = np.stack(np.meshgrid(letters, letters), axis=-1).reshape(-1, 2)
    pairs = NGramEmbedding(rows, 6, rngs=nnx.Rngs(0)).rows_of(jnp.asarray(texts))[0]
    counts, expected = np.bincount(pairs.ravel(), minlength=rows), len(texts) / rows
    assert ((counts - expected) ** 2 / expected).sum() < 2 * rows, "χ² of a uniform hash is ≈ rows"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"attention": "full", "recurrent_layers": ()}, "set ngram_rows = 0"),
        ({"window_length": 2}, "window_length of at least 3, not 2"),
    ],
)
def test_models_that_cannot_have_ngrams(fields, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(ngram_rows=8, **fields)
