"""The part of the held-out documents that an evaluation during training scores."""

import numpy as np
import pytest

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.mixture import Mixture
from block_recurrent.data.recall import RecallDocuments
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.evaluation.excerpt import Excerpt

TEXTS = {"long": "vier fünf " * 100, **{f"{n}": f"text {n} — " * n for n in range(1, 9)}}


def documents_of(texts):
    return ByteDocuments({name: text.encode() for name, text in texts.items()})


def content(excerpt):
    """Name and tokens of every document."""
    return [
        (name, tuple(excerpt.tokens(index, 0, 10**6))) for index, name in enumerate(excerpt.names)
    ]


@pytest.mark.parametrize("max_tokens", [1, 50, 200, 800, 1500])
def test_whole_documents_and_the_head_of_one(max_tokens):
    documents = documents_of(TEXTS)
    excerpt = Excerpt(documents, max_tokens)
    found = content(excerpt)
    assert sum(len(tokens) for _, tokens in found) == excerpt.num_tokens == max_tokens
    assert [len(tokens) for _, tokens in found] == excerpt.lengths.tolist()
    for number, (name, tokens) in enumerate(found):
        index = documents.names.index(name)
        whole = documents.tokens(index, 0, 10**6)
        np.testing.assert_array_equal(tokens, whole[: len(tokens)])
        if number < len(found) - 1:
            assert tokens[-1] == ByteVocabulary.end_id, "only the last one is cut off"
    if max_tokens < documents.lengths[0]:
        short = sum(documents.lengths[1:])
        assert ("long" in excerpt.names) == (max_tokens > short), "it could never be whole"


def test_pieces_of_a_document_end_where_the_excerpt_ends():
    excerpt = Excerpt(documents_of(TEXTS), 50)
    last = len(excerpt.lengths) - 1
    length = int(excerpt.lengths[last])
    assert len(excerpt.tokens(last, length - 2, length + 9)) == 2
    assert len(excerpt.tokens(last, length, length + 9)) == 0


def test_counts_are_those_of_the_excerpt():
    excerpt = Excerpt(documents_of(TEXTS), 800)
    texts = [excerpt.raw(index) for index in range(len(excerpt.names))]
    assert excerpt.num_bytes == sum(map(len, texts)) == 800 - (len(texts) - 1)
    assert excerpt.num_words == sum(len(text.split()) for text in texts)
    assert excerpt.num_characters == sum(len(text.decode("utf-8", "ignore")) for text in texts)


def test_the_order_of_the_documents_does_not_matter():
    backwards = dict(reversed(TEXTS.items()))
    excerpts = [Excerpt(documents_of(texts), 300) for texts in (TEXTS, backwards)]
    assert content(excerpts[0]) == content(excerpts[1])


def test_it_hardly_changes_when_documents_are_added():
    before = Excerpt(documents_of(TEXTS), 300)
    after = Excerpt(documents_of(TEXTS | {"new": "new"}), 300)
    assert set(before.names[:-1]) <= set(after.names)


def test_documents_of_other_kinds_are_scaled():
    """Those of several stores, or that are no text."""
    parts = [documents_of({name: text}) for name, text in TEXTS.items()]
    mixture = Mixture(parts, [1.0] * len(parts))
    excerpt, same = Excerpt(mixture, 800), Excerpt(documents_of(TEXTS), 800)
    assert content(excerpt) == content(same)
    assert excerpt.num_words == round(mixture.num_words * 800 / mixture.num_tokens)
    recall = RecallDocuments("held_out", 4, 8, (1, 64))
    excerpt = Excerpt(recall, 1000)
    assert (excerpt.num_words, excerpt.num_characters) == (0, None)
    for index, document in enumerate(excerpt.chosen):
        length = int(excerpt.lengths[index])
        weights = recall.loss_weights(int(document), 0, length)
        np.testing.assert_array_equal(excerpt.loss_weights(index, 0, 10**6), weights)
