"""What prepare_data says about vocabularies that lose text, and what becomes of the number."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from block_recurrent.config.data_options import DataConfig
from block_recurrent.console.lossy import lossy_mark
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.prepare.lost_text import COMPARED_WHOLE, LostText
from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary
from preparing import TEXTS, bind, write_texts
from vocabularies import LOSSLESS, NO_END, byte_level_tokenizer, sentencepiece_model

CODE = "def main():\n    for line in  lines:\n        print(line)\n" * 9
ALLOWED = bind(prepare__allow_lossy_vocabulary=True)


@pytest.fixture
def vocabulary(place):
    """Writes a vocabulary's file, and returns the options that choose it."""

    def write(content: bytes, name: str = "my.model") -> list[str]:
        (place / name).write_bytes(content)
        return bind(prepare__vocabulary=name)

    return write


def lost_and_unknown(vocabulary, text: str) -> tuple[int, int]:
    counts = LostText(vocabulary)
    counts.add(vocabulary.encode(text.encode()), text.encode())
    assert counts.compared_bytes == len(text.encode())
    return counts.lost_bytes, counts.unknown


def test_what_is_lost():
    default = SentencePieceVocabulary(sentencepiece_model())
    lossless = SentencePieceVocabulary(sentencepiece_model(**LOSSLESS))
    for text in (CODE, "漢字\n雪\t", "a\r\n\x00ﬁ "):
        assert lost_and_unknown(ByteVocabulary(), text) == (0, 0)
        assert lost_and_unknown(lossless, text) == (0, 0)
    assert lost_and_unknown(default, "the state\nof  a block\n") == (2, 0)  # the line ends
    lost, unknown = lost_and_unknown(default, "the 漢字 of 漢")
    assert (lost, unknown) == (9, 2)


def test_of_much_text_a_part_is_compared():
    vocabulary = SentencePieceVocabulary(sentencepiece_model())
    counts, piece = LostText(vocabulary), "雪の漢字\n".encode() * 2**15
    tokens = vocabulary.encode(piece)
    for _ in range(150):
        counts.add(tokens, piece)
    seen = 150 * len(piece)
    expected = COMPARED_WHOLE + (seen - COMPARED_WHOLE) / 32
    assert expected - len(piece) < counts.compared_bytes < expected + 2 * len(piece)
    assert counts.unknown == 150 * np.count_nonzero(tokens == vocabulary.unknown_id) > 0


def test_a_lossy_vocabulary_is_refused_unless_allowed(run, prepare, place, vocabulary):
    write_texts(place / "texts", {f"code{i}.py": CODE.encode() for i in range(40)})
    arguments = [*TEXTS, *vocabulary(sentencepiece_model()), *bind(prepare__num_processes=1)]
    status, _, err = run("--output=store", *arguments)
    assert status == 2 and err.count("\n") == 1 and not Path("store").exists()
    assert err.startswith(
        "error: the vocabulary does not keep the text of text_files, split 'train': "
    )
    assert "of its bytes do not come back from the tokens, and " in err
    assert "train_tokenizer" in err and "prepare.allow_lossy_vocabulary = True" in err
    out = prepare("store", *arguments, *ALLOWED)
    assert "shards are already complete" in out and " compared bytes lost" in out
    train = load_documents(DataConfig("store", stores=("store",)))["train"]
    counts = json.loads(Path("store/store.json").read_text())["splits"]["train"]
    assert train.text_lost == counts["lost_bytes"] / counts["compared_bytes"] > 0.001
    assert counts["compared_bytes"] == counts["bytes"]


def test_lossless_vocabularies_are_not(prepare, place, vocabulary):
    write_texts(place / "texts", {f"code{i}.py": CODE.encode() for i in range(40)})
    for number, chosen in enumerate(
        [
            vocabulary(sentencepiece_model(**LOSSLESS, **NO_END)),
            vocabulary(byte_level_tokenizer(("<pad>",)).to_str().encode(), "tokenizer.json"),
        ]
    ):
        out = prepare(f"store{number}", *TEXTS, *chosen, *bind(data__held_out="code0.py"))
        assert "; 0 unknown tokens, 0.000% of " in out
        documents = load_documents(DataConfig("store", stores=(f"store{number}",)))["train"]
        assert documents.text_lost == 0
        texts = Path("texts")
        for index, name in enumerate(documents.names):
            tokens = documents.tokens(index, 0, int(documents.lengths[index])).tolist()
            assert tokens[-1] == documents.vocabulary.end_id == documents.vocabulary.size - 1
            assert documents.vocabulary.decode(tokens) == (texts / name).read_bytes()
    os.rename("tokenizer.json", "moved.json")
    assert documents.vocabulary.encode(b"the")[0] >= 0


def test_nothing_is_counted_for_bytes(prepare):
    out = prepare("store", *TEXTS)
    assert "lost" not in out and "lost_bytes" not in Path("store/store.json").read_text()
    assert load_documents(DataConfig("store", stores=("store",)))["train"].text_lost == 0


def test_earlier_stores_have_no_share(prepare, vocabulary):
    prepare("store", *TEXTS, *vocabulary(sentencepiece_model()), *ALLOWED)
    path = Path("store/store.json")
    metadata = json.loads(path.read_text())
    for counts in metadata["splits"].values():
        del counts["compared_bytes"], counts["lost_bytes"], counts["unknown"]
    path.write_text(json.dumps(metadata))
    assert load_documents(DataConfig("store", stores=("store",)))["train"].text_lost is None


def test_only_affected_numbers_are_marked():
    mark = " (not comparable: the vocabulary loses 20.00% of the text)"
    assert lossy_mark({"text_lost": 0.2}) == mark
    assert lossy_mark({"text_lost": 0.2}, "word_perplexity") == mark
    assert lossy_mark({"text_lost": 0.2}, "bits_per_token") == ""
    assert lossy_mark({"text_lost": 0.0009}) == lossy_mark({}) == ""
