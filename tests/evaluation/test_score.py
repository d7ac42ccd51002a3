"""Metrics of a score: which of them mean something."""

import json
import math

import numpy as np
import pytest

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.evaluation.loss_profile import Profile, distance_table
from block_recurrent.evaluation.score import Score, compressed_bits_per_byte
from block_recurrent.reporting.metrics_log import for_json

CHINESE = "甲第益高丞相府，多儀新出大明宮。\n九重禮絕恩三顧，一德名尊報兩崇。\n"
VERSE = "猗與四公，棠棣之華。\n秀韡一時，茂興兩家。\n"
THAI = "การเดินทางหมื่นลี้เริ่มต้นด้วยก้าวแรก ความพยายามอยู่ที่ไหนความสำเร็จอยู่ที่นั่น\n"
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива\n"
HINDI = "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है\n"


def score_of(text: bytes, nats_per_byte=1.0):
    """The score of a document with this loss."""
    documents = ByteDocuments({"a": text})
    profile = Profile(*np.zeros((5, 32)))
    profile.tokens[3], profile.nats[3] = documents.num_tokens, nats_per_byte * len(text)
    return Score(profile, documents.num_bytes, documents.num_words, documents.num_characters)


@pytest.mark.parametrize("text", ["all happy families\n", "    return self.x\n", RUSSIAN, HINDI])
def test_text_with_words(text):
    text = text.encode() * 10
    metrics = score_of(text, 0.5).metrics()
    nats_per_word = 0.5 * len(text) / len(text.split())
    assert metrics["word_perplexity"] == pytest.approx(math.exp(nats_per_word))


@pytest.mark.parametrize("text", [CHINESE, VERSE, THAI, "0123456789abcdef" * 9, "", " \n"])
def test_text_without_words_has_no_word_perplexity(text):
    assert "word_perplexity" not in score_of(text.encode() * 10).metrics()


def test_no_metric_is_infinite():
    """The loss of a model that diverged: e^(200 · 4) is not a number in a computer."""
    metrics = score_of(b"so far so good " * 10, 200.0).metrics()
    assert "word_perplexity" not in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_nothing_to_score():
    """For example the head of a document of `recall`, without an answer."""
    empty = Profile(*np.zeros((5, 32)))
    metrics = Score(empty, 0, 0, 0).metrics()
    assert metrics.keys() == {"loss", "accuracy", "bits_per_token", "bits_per_byte"}
    assert all(math.isnan(value) for value in metrics.values())
    assert math.isnan(empty.bits_per_token)
    assert distance_table({"carried": empty})["tokens"] == []
    assert all(map(math.isnan, compressed_bits_per_byte(ByteDocuments({"a": b""})).values()))


def test_json_has_no_nan():
    value = {"a": [1.5, math.nan, {"b": -math.inf}], "c": "x", "d": None, "e": 3}
    expected = {"a": [1.5, None, {"b": None}], "c": "x", "d": None, "e": 3}
    assert json.loads(json.dumps(for_json(value), allow_nan=False)) == expected
