"""Words are counted as Python counts them, in whatever pieces the text comes."""

import numpy as np
import pytest

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.words import WordCounter

TEXTS = [
    b"",
    b" ",
    b"a",
    b" a",
    b"a ",
    b"one two  three\n",
    "fünf é\u00a0x".encode(),
    bytes(range(256)),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_words_in_pieces(text, piece):
    words = WordCounter()
    for start in range(0, len(text), piece):
        words.add(text[start : start + piece])
    assert words.count == len(text.split())


def test_words_of_random_text():
    rng = np.random.default_rng(0)
    text = rng.choice(np.frombuffer(b" \t\n\v\f\rab\x1c\x85", np.uint8), 10_000).tobytes()
    words = WordCounter()
    words.add(text)
    assert words.count == len(text.split())


def test_words_of_documents(tmp_path):
    (tmp_path / "a").write_bytes(b"one two")
    documents = ByteDocuments({"a": tmp_path / "a", "b": b" three "})
    assert documents.num_words == 3
    assert documents.select([1]).num_words == 1
