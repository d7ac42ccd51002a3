"""The stores that prepare_data makes: from PG19, from folders, and from custom Tasks."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

import block_recurrent.evaluate
from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.prepare import plain_folder
from books import BOOKS, TEXT, text_of
from preparing import (
    TEXTS,
    bind,
    data,
    documents_of,
    environment,
    mine,
    texts_of,
    write_texts,
)


def test_pg19_bytes(prepare, pg19):
    out = prepare("store", data("pg19_bytes"), *bind(prepare__tfds_data_dir=pg19))
    books = {split: {str(b): text_of(b).encode() for b in books} for split, books in BOOKS.items()}
    for split, name in {"train": "train", "validation": "held_out", "test": "test"}.items():
        assert texts_of("store", name) == books[split]
    train = books["train"].values()
    tokens, words = sum(map(len, train)) + 17, sum(len(text.split()) for text in train)
    assert (
        f"store train: 17 documents, {tokens:,} tokens, {tokens - 17:,} bytes, {words:,} words; "
        "0 empty documents left out, 0 with invalid UTF-8\n"
    ) in out
    assert out.startswith("writing 12 shards, 1 at a time\n")
    assert out.endswith(
        "to train from it, set data.corpus = 'store', data.stores = ('store',), "
        "BlockRecurrentTransformer.vocab_size = 260\n"
    )
    loaded = load_documents(DataConfig("store", stores=("store",)))
    assert loaded["train"].num_words == words and loaded["train"].vocabulary.name == "bytes"


@pytest.mark.slow
def test_training_and_evaluation_on_pg19(prepare, pg19, place, run_command):
    """From TFDS through seqio and the store to a model, with the commands of the README."""
    prepare("store", data("pg19_bytes"), *bind(prepare__tfds_data_dir=pg19))
    files = [f"--gin_file=gin/{name}.gin" for name in ("brt_fixed_gate", "scale/tiny")]
    quick = bind(train__num_steps=2, BlockRecurrentTransformer__num_layers=2)
    train = [*files, data("pg19_bytes"), *quick, *bind(data__stores=("store",)), "--workdir=run"]
    result = subprocess.run(
        [sys.executable, "-m", "block_recurrent.train", *train],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "step 2: held-out bits per byte" in result.stdout

    def evaluate(split: str) -> tuple[int, str, str]:
        return run_command(block_recurrent.evaluate.main, "--workdir=run", f"--split={split}")

    status, out, err = evaluate("test")
    assert (status, err) == (0, "")
    score = dict(line.split() for line in out.splitlines())
    test = load_documents(DataConfig("store", stores=("store",)))["test"]
    assert (int(score["tokens"]), int(score["words"])) == (test.num_tokens, test.num_words)
    nats_per_word = float(score["loss"]) * test.num_tokens / test.num_words
    assert float(score["word_perplexity"]) == pytest.approx(math.exp(nats_per_word), rel=1e-3)
    status, out, err = evaluate("tset")
    assert (status, out) == (2, "")
    assert err == "error: no split tset: choose from train, held_out, test\n"


def test_pg19_tokens(prepare, pg19, model):
    bindings = bind(prepare__tfds_data_dir=pg19, prepare__vocabulary=model)
    prepare("store", data("pg19_tokens"), *bindings)
    processor = SentencePieceProcessor(model_file=model)
    expected = {str(book): processor.encode(text_of(book)) for book in BOOKS["train"]}
    assert documents_of("store", "train") == expected
    assert Path("store/vocabulary.model").read_bytes() == Path(model).read_bytes()
    vocabulary = load_documents(DataConfig("store", stores=("store",)))["train"].vocabulary
    assert vocabulary.size == processor.get_piece_size()
    assert vocabulary.encode(text_of(100).encode()).tolist() == expected["100"]


def test_text_files(prepare, place):
    prepare("store", *TEXTS, *bind(data__held_out_per_mille=200))
    splits = load_documents(DataConfig("text_files", "texts", held_out_per_mille=200))
    for split, documents in splits.items():
        raw = {documents.names[i]: documents.raw(i) for i in range(len(documents.names))}
        assert texts_of("store", split) == raw


def test_long_documents_in_pieces(prepare, place, model, monkeypatch):
    """Pieces of 100 bytes, one of which leaves no token."""
    read_pieces = plain_folder.read_pieces
    monkeypatch.setattr(
        plain_folder, "read_pieces", lambda *a, **k: read_pieces(*a, limit=100, **k)
    )
    (place / "texts" / "spaces.txt").write_bytes(b" " * 500 + b"the end" + b"\n" * 200)
    whole = {path.name: path.read_bytes() for path in (place / "texts").iterdir()}
    held_out = bind(data__held_out="0.txt")
    prepare("bytes", *TEXTS, *held_out)
    assert texts_of("bytes", "train") | texts_of("bytes", "held_out") == whole
    lossy = bind(prepare__vocabulary=model, prepare__allow_lossy_vocabulary=True)
    prepare("tokens", *TEXTS, *held_out, *lossy)
    found = documents_of("tokens", "train") | documents_of("tokens", "held_out")
    processor = SentencePieceProcessor(model_file=model)
    assert found == {name: processor.encode(text.decode()) for name, text in whole.items()}


def test_invalid_utf8_and_empty_documents(prepare, place, model):
    odd = {"a.txt": b"the \xff\xfe state", "b.txt": "naïve".encode()[:3], "empty.txt": b""}
    write_texts(place / "texts", odd)
    held_out = bind(data__held_out="0.txt")
    out = prepare("bytes", *TEXTS, *held_out)
    assert "1 empty documents left out, 0 with invalid UTF-8" in out
    assert texts_of("bytes", "train") | odd == texts_of("bytes", "train") | {"empty.txt": b""}
    lossy = bind(prepare__vocabulary=model, prepare__allow_lossy_vocabulary=True)
    out = prepare("tokens", *TEXTS, *held_out, *lossy)
    assert "1 empty documents left out, 2 with invalid UTF-8" in out


def test_custom_tasks(prepare):
    prepare("pieces", *mine("pieces"))
    assert texts_of("pieces", "train") == {
        "in pieces": f"train {TEXT}".encode(),
        "last of train": b"whole",
    }
    prepare("whole", *mine("whole"))
    assert texts_of("whole", "held_out") == {
        "held_out-0-0": f"validation {TEXT[:5]}".encode(),
        "held_out-0-1": TEXT[5:].encode(),
        "held_out-0-3": b"whole",
    }
    metadata = json.loads(Path("whole/store.json").read_text())
    assert metadata["task"] == "whole" and metadata["splits"]["train"]["empty"] == 1


def test_a_custom_vocabulary(prepare):
    prepare("store", *mine("letters"))
    train = load_documents(DataConfig("store", stores=("store",)))["train"]
    assert (train.vocabulary.name, train.vocabulary.size) == ("other-300", 300)
    assert train.tokens(0, 0, 99).tolist() == [*f"train {TEXT[:5]}".encode(), 2]


def test_parts_of_a_tfds_split(prepare, pg19):
    """The example of docs/data.md: 80% of 17 books are 14."""
    prepare("store", *mine("books", prepare__tfds_data_dir=pg19))
    found = [texts_of("store", split) for split in ("train", "held_out")]
    assert [len(texts) for texts in found] == [14, 3]
    texts = {text for part in found for text in part.values()}
    assert texts == {text_of(book).encode() for book in BOOKS["train"]}


@pytest.mark.slow
def test_a_mixture_becomes_stores_with_weights(prepare):
    out = prepare("store", *mine("both"))
    metadata = json.loads(Path("store/store.json").read_text())
    assert metadata["mixture"] == {"pieces": 0.25, "slow_lines": 0.75}
    assert {f"{i}/{j}".encode() for i in range(8) for j in range(6)} == set(
        texts_of("store/slow_lines", "train").values()
    )
    assert "store/pieces held_out: 2 documents" in out
    train = load_documents(DataConfig("store", stores=("store",)))["train"]
    assert train.weights[1] == pytest.approx(3 * train.weights[0])


def test_number_of_shards(prepare, pg19):
    bindings = bind(prepare__tfds_data_dir=pg19, prepare__num_shards=3)
    prepare("store", data("pg19_bytes"), *bindings)
    assert len(list(Path("store").glob("train-*.tokens"))) == 3
    assert sorted(texts_of("store", "train")) == sorted(map(str, BOOKS["train"]))
