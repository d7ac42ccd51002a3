"""The corpus 'recall': its facts, its questions, and that only the answers count in the loss."""

import dataclasses
import re

import numpy as np
import pytest

from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import load
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.documents import Documents
from block_recurrent.data.lanes import Lanes
from block_recurrent.data.recall import SPLITS, RecallDocuments
from block_recurrent.errors import UserError
from block_recurrent.training.trainer import Trainer
from tiny import TINY

EASY = DataConfig(corpus="recall", recall_facts=3, recall_values=4, recall_filler=(5, 40))
DOCUMENT = re.compile(rb"([\x80-\x8b]{3})([0-9]{5,40})((?:[A-C][\x80-\x8b]){3})")


@pytest.fixture(scope="module")
def splits():
    return load_documents(EASY)


def text_of(documents, index):
    tokens = documents.tokens(index, 0, 10**9)
    assert len(tokens) == documents.lengths[index]
    return documents.vocabulary.decode(tokens)


def test_every_question_has_the_answer_of_its_fact(splits):
    documents = splits["held_out"]
    assert isinstance(documents, Documents) and set(splits) == set(SPLITS)
    fillers, asked = [], []
    for index in range(len(documents.lengths)):
        text = text_of(documents, index)
        facts, filler, questions = DOCUMENT.fullmatch(text).groups()
        pairs = {bytes([ord("A") + byte % 128 // 4, byte]) for byte in facts}
        assert {pair[:1] for pair in pairs} == {b"A", b"B", b"C"}
        assert {questions[i : i + 2] for i in range(0, 6, 2)} == pairs
        weights = documents.loss_weights(index, 0, 10**9)
        places = 3 + len(filler) + np.array([1, 3, 5])
        assert np.flatnonzero(weights).tolist() == places.tolist()
        fillers.append(len(filler)), asked.append(facts + questions)
    assert min(fillers) < 8 and max(fillers) > 30
    assert len(set(asked)) > 0.9 * len(asked), "they state different facts"
    assert documents.num_tokens == documents.num_bytes + len(fillers) == sum(documents.lengths)


def test_documents_are_the_same_every_time_and_in_pieces(splits):
    documents, again = splits["train"], load_documents(EASY)["train"]
    assert documents.fingerprint == again.fingerprint != splits["held_out"].fingerprint
    for index in (0, 1, 70):
        whole, weights = again.tokens(index, 0, 99), again.loss_weights(index, 0, 99)
        bounds = [0, 1, 7, 20, len(whole)]
        pieces = list(zip(bounds[:-1], bounds[1:], strict=True))
        parts = [documents.tokens(index, *piece) for piece in pieces]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        parts = [documents.loss_weights(index, *piece) for piece in pieces]
        np.testing.assert_array_equal(np.concatenate(parts), weights)


@pytest.mark.parametrize("split, factor", [("far", 10), ("farther", 80)])
def test_splits_with_longer_filler(splits, split, factor):
    fillers = (splits[split].lengths - 3 * 3 - 1) / factor
    assert 5 <= fillers.min() < 8 and 30 < fillers.max() <= 40


def test_only_answers_have_weight_in_lanes(splits):
    lanes = Lanes(splits["held_out"], 4, 32, 8, shuffle=False, repeat=False)
    position, answers = lanes.initial_position(), 0
    while not lanes.exhausted(position):
        batch, position = lanes.read(position)
        chosen = batch.targets[batch.weights == 1]
        assert set(batch.weights.ravel().tolist()) <= {0, 1}
        assert set(lanes.documents.vocabulary.decode(chosen)) <= set(range(128, 140))
        answers += len(chosen)
    assert answers == 3 * SPLITS["held_out"][0]


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        ((0, 4, (5, 40)), "data.recall_facts = 0 and data.recall_values = 4: choose 1 to 26 facts"),
        ((27, 4, (5, 40)), "data.recall_facts = 27 and"),
        ((3, 1, (5, 40)), "data.recall_values = 1: choose 1 to 26 facts, and at least 2 values"),
        ((20, 20, (5, 40)), "values = 20: choose 1 to 26 facts, and at least 2 values, with a"),
        (
            (3, 4, (40, 5)),
            "data.recall_filler = (40, 5): give the minimum and the maximum number of bytes",
        ),
        (
            (3, 4, (5,)),
            "data.recall_filler = (5,): give the minimum and the maximum number of bytes",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(difficulty, words):
    with pytest.raises(UserError, match=re.escape(words)):
        RecallDocuments("train", *difficulty)


def make_trainer(folder):
    config = load(["gin/brt_fixed_gate.gin", "gin/scale/tiny.gin", "gin/data/recall.gin"], [])
    train = dataclasses.replace(config.train, num_steps=2, eval_every_steps=2, log_every_steps=1)
    model = dataclasses.replace(TINY, window_length=16, num_layers=2)
    config = dataclasses.replace(config, data=EASY, train=train, model=model)
    return Trainer(config, folder / "run")


def test_only_answers_are_scored(tmp_path):
    """Bits per byte equal bits per token, and accuracy is at chance."""
    trainer = make_trainer(tmp_path)
    score = trainer.evaluation.evaluator(trainer.setup.init().params)
    assert score.num_tokens == 3 * 256
    metrics = score.metrics()
    assert metrics["bits_per_byte"] == pytest.approx(metrics["bits_per_token"], rel=0.05)
    assert 0 <= metrics["accuracy"] < 0.5
    assert not {"word_perplexity", "bits_per_character"} & set(metrics), "this is not text"


@pytest.mark.slow
def test_a_run_reports_its_accuracy(tmp_path, capsys):
    assert make_trainer(tmp_path).run()
    assert ", accuracy 0." in capsys.readouterr().out
