"""Token stores: what is written can be read, and damage is found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.mixture import Mixture
from block_recurrent.data.prepare.store_writer import (
    Shard,
    ShardWriter,
    finish_store,
    write_mixture,
)
from block_recurrent.data.store import open_stores, verify
from block_recurrent.data.store_format import FORMAT
from block_recurrent.errors import UserError
from stores import BYTES, TEXTS, make_store


def open_split(folder: Path, split: str = "train"):
    ((store, weight),) = open_stores(folder)[split]
    assert weight == 1
    return store


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def test_what_is_written_is_read(store):
    splits = open_stores(store)
    assert splits.keys() == TEXTS.keys()
    for split, shards in TEXTS.items():
        documents = open_split(store, split)
        texts = [text.encode() for shard in shards for text in shard]
        assert documents.lengths.tolist() == [len(text) + 1 for text in texts]
        assert documents.num_bytes == sum(map(len, texts))
        assert documents.num_tokens == documents.num_bytes + len(texts)
        assert documents.num_words == sum(len(text.split()) for text in texts)
        assert documents.num_characters == sum(len(text.decode()) for text in texts)
        numbers = [(s, n) for s, shard in enumerate(shards) for n in range(len(shard))]
        assert documents.names == [f"{split} {s}/{n}\n" for s, n in numbers]
        for index, text in enumerate(texts):
            tokens = [*(byte + 3 for byte in text), 1]
            assert documents.tokens(index, 0, len(tokens)).tolist() == tokens
            assert documents.tokens(index, 2, 6).tolist() == tokens[2:6]
            assert documents.tokens(index, 1, 10**9).tolist() == tokens[1:]
    assert list(verify(store)) == []


def test_a_store_that_counted_no_characters(store):
    """Stores of older versions can be read, but have no number of characters."""
    path = store / "store.json"
    metadata = json.loads(path.read_text())
    for counts in metadata["splits"].values():
        del counts["characters"]
    path.write_text(json.dumps(metadata))
    documents = open_split(store)
    assert documents.num_characters is None
    counted = ByteDocuments({"a": b"text"})
    assert Mixture([documents, counted], [1.0, 1.0]).num_characters is None
    assert Mixture([counted, counted], [1.0, 1.0]).num_characters == 8


def test_large_vocabularies_take_four_bytes(tmp_path):
    for size, width in ((2**16, 2), (2**16 + 1, 4)):
        with ShardWriter(tmp_path, "train", size, size) as writer:
            writer.add(np.array([0, size - 1]), b"x")
            writer.end_document("x")
        assert (tmp_path / f"train-{size:05}.tokens").stat().st_size == 2 * width
    vocabulary = {"kind": "other", "size": 2**16 + 1, "eos": 1}
    os.rename(tmp_path / "train-65537.json", tmp_path / "x")  # a shard of another number
    with ShardWriter(tmp_path, "train", 0, 2**16 + 1) as writer:
        writer.add(np.array([70_000, 3]), b"x")
        writer.end_document("x")
    finish_store(tmp_path, task="test", vocabulary=vocabulary, shards={"train": 1})
    documents = open_split(tmp_path)
    assert documents.tokens(0, 0, 2).tolist() == [70_000, 3]
    with pytest.raises(UserError, match="the token store has a custom vocabulary"):
        documents.vocabulary.decode([3])


def test_the_same_documents_make_the_same_bytes(store, tmp_path):
    other = make_store(tmp_path / "elsewhere")
    assert contents(store) == contents(other)
    assert open_split(store).fingerprint == open_split(other).fingerprint
    assert open_split(store).fingerprint != open_split(store, "held_out").fingerprint
    changed = make_store(tmp_path / "changed", TEXTS | {"train": [["one too"]]})
    assert open_split(store).fingerprint != open_split(changed).fingerprint


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_shard_exists_when_it_is_complete(tmp_path):
    shard = Shard("task", {"train": "train"}, 0, 1, tmp_path)
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path, "train", 0, 259) as writer:
        writer.add(np.array([3, 4]), b"ab")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [] and not shard.is_finished
    with ShardWriter(tmp_path, "train", 0, 259) as writer:
        writer.end_document("nothing")
        assert not shard.is_finished
    assert shard.is_finished


@pytest.mark.parametrize("suffix", ["tokens", "documents", "names", "json"])
def test_verify_finds_a_flipped_bit(store, suffix):
    path = store / f"train-00001.{suffix}"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert list(verify(store)) == [f"{path} contains other bytes than were written"]


@pytest.mark.parametrize("suffix", ["tokens", "documents", "names", "json"])
@pytest.mark.parametrize("harm", ["shorten", "remove"])
def test_a_truncated_store_is_not_opened(store, suffix, harm):
    path = store / f"train-00001.{suffix}"
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as error:
        load_documents(DataConfig("store", stores=(str(store),)))
    assert str(path) in str(error.value) and "prepare" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_altered_table_is_not_opened(store):
    path = store / "train-00000.documents"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="train-00000.documents: it contains other bytes than were"):
        open_stores(store)


def test_a_store_that_shrinks_while_it_is_read(store):
    documents = open_split(store)
    documents.tokens(3, 0, 8)
    os.truncate(store / "train-00001.tokens", 20)
    with pytest.raises(UserError, match="train-00001.tokens: it was truncated after this run"):
        documents.tokens(3, 0, 200)


@pytest.mark.parametrize("replace", [False, True])
def test_tokens_that_change_underneath_are_refused(store, replace):
    """Modified in place while open, or replaced before the first read."""
    documents = open_split(store)
    if not replace:
        documents.tokens(3, 0, 8)
    path = store / "train-00001.tokens"
    content = path.read_bytes()
    if replace:
        path.unlink()
    path.write_bytes(content[::-1])
    os.utime(path, ns=(0, 1))  # even where clocks are coarse
    with pytest.raises(UserError, match="train-00001.tokens: it was modified after this run"):
        documents.tokens(3, 0, 8)


@pytest.mark.parametrize(
    "metadata, message",
    [
        (None, "no token store in .*prepare_data --output"),
        ("{", "cannot read .*store.json .*: prepare the store again"),
        ("[]", "store.json is not a JSON object"),
        (json.dumps({"format": 99}), "has format 99, but this version reads format 1"),
        (
            json.dumps({"format": FORMAT, "mixture": {"../x": 1.0}}),
            "contains the invalid name '../x'",
        ),
        (json.dumps({"format": FORMAT, "splits": {"a/b": {}}}), "contains the invalid name 'a/b'"),
    ],
)
def test_metadata_that_cannot_be_read(tmp_path, metadata, message):
    if metadata:
        (tmp_path / "store.json").write_text(metadata)
    with pytest.raises(UserError, match=message):
        open_stores(tmp_path)


def test_the_splits_that_training_needs(tmp_path):
    make_store(tmp_path / "s", {"train": [["a"]]})
    with pytest.raises(UserError, match="have no split held_out"):
        load_documents(DataConfig("store", stores=(str(tmp_path / "s"),)))
    with pytest.raises(UserError, match="data.corpus = 'store' needs token stores"):
        load_documents(DataConfig("store"))


def test_a_vocabulary_other_than_the_model_s(store):
    config = DataConfig("store", stores=(str(store),), vocabulary="sentencepiece-1-32000")
    with pytest.raises(
        UserError, match="vocabulary bytes, but the model was trained with sentencepiece-1"
    ):
        load_documents(config)


# Mixtures


def weights_of(config: DataConfig) -> list[float]:
    weights = np.array(load_documents(config)["train"].weights)
    return (weights / weights.sum()).tolist()


def test_stores_mix_by_their_weights(tmp_path):
    a, b = (make_store(tmp_path / name, TEXTS | {"train": [[name * 7]]}) for name in "ab")
    c = make_store(tmp_path / "c", TEXTS | {"train": [["c" * 23]]})
    stores = str(a), str(c)
    assert weights_of(DataConfig("store", stores=stores)) == [8 / 32, 24 / 32]
    assert weights_of(DataConfig("store", stores=stores, weights=(3.0, 1.0))) == [0.75, 0.25]
    os.rename(b, a / "b")
    os.rename(c, a / "c")
    write_mixture(a, {"b": 0.5, "c": 0.5})
    assert weights_of(DataConfig("store", stores=(str(a),))) == [0.5, 0.5]
    assert len(list(verify(a))) == 0
    d = make_store(tmp_path / "d")
    mixed = DataConfig("store", stores=(str(a), str(d)), weights=(1.0, 3.0))
    assert weights_of(mixed) == [0.125, 0.125, 0.75]
    documents = load_documents(mixed)["held_out"]
    assert documents.num_bytes == 3 * len("held out") and len(documents.names) == 3


@pytest.mark.parametrize(
    "weights, message",
    [
        ((1.0,), "has 1 numbers for 2 stores: give one per store, or"),
        ((1.0, 2.0, 3.0), "has 3 numbers for 2 stores: give one per store, or"),
    ],
)
def test_invalid_weights_are_refused(store, weights, message):
    config = DataConfig("store", stores=(str(store), str(store)), weights=weights)
    with pytest.raises(UserError) as error:
        load_documents(config)
    assert str(error.value).startswith(f"data.weights = {weights}") and message in str(error.value)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0]])
def test_a_mixture_needs_a_positive_weight_for_each_source(store, weights):
    documents = open_split(store)
    with pytest.raises(UserError, match=": give 2 positive numbers, one per store"):
        Mixture([documents, documents], weights)


def test_stores_of_different_vocabularies_do_not_mix(store, tmp_path):
    other = make_store(tmp_path / "other", vocabulary=BYTES | {"kind": "other"})
    with pytest.raises(UserError, match="the stores have different vocabularies .bytes, other-259"):
        load_documents(DataConfig("store", stores=(str(store), str(other))))


# Training


TRAIN = """
import sys
from pathlib import Path
from corpus import tiny_run
from block_recurrent.data.corpora import DataConfig
from block_recurrent.training.trainer import Trainer
import dataclasses

config = tiny_run(Path("unused"), num_steps=2, eval_every_steps=2)
data = DataConfig("store", stores=(sys.argv[1],))
assert Trainer(dataclasses.replace(config, data=data), Path(sys.argv[2])).run()
print([name for name in ("tensorflow", "tensorflow_datasets", "seqio", "torch")
       if name in sys.modules])
"""


@pytest.mark.slow
def test_training_from_a_store_imports_no_tensorflow(store, tmp_path):
    """They are installed here, but a run with checkpoint and evaluation imports none of them."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", "tests", *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", TRAIN, str(store), str(tmp_path / "run")],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    held_out = json.loads(lines[-1])
    assert held_out["split"] == "held_out" and held_out["word_perplexity"] > 1
    assert 0 <= json.loads(lines[0])["waiting_for_data"] <= 1
    gin = (tmp_path / "run" / "config.gin").read_text()
    assert "data.vocabulary = 'bytes'" in gin and f"data.stores = ('{store}',)" in gin
