"""Words and characters are counted as in Python, for any division of the text into chunks."""

import numpy as np
import pytest

from block_recurrent.data.documents import ByteDocuments, TextCounter

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


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_text_in_pieces(piece):
    for text in TEXTS:
        counter = TextCounter()
        for start in range(0, len(text), piece):
            counter.add(text[start : start + piece])
        assert counter.words == len(text.split()), text
        if text != bytes(range(256)):
            assert counter.characters == len(text.decode()), text


def test_words_of_random_text():
    rng = np.random.default_rng(0)
    text = rng.choice(np.frombuffer(b" \t\n\v\f\rab\x1c\x85", np.uint8), 10_000).tobytes()
    counter = TextCounter()
    counter.add(text)
    assert counter.words == len(text.split())


def test_counts_of_documents(tmp_path):
    (tmp_path / "a").write_bytes(b"one two")
    documents = ByteDocuments({"a": tmp_path / "a", "b": " dreißig ".encode()})
    assert documents.num_words == 3
    assert documents.num_characters == 7 + 9
    assert (documents.select([1]).num_words, documents.select([1]).num_characters) == (1, 9)
