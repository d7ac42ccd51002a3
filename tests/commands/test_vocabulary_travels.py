"""A model writes text wherever it is: its run and its file contain the vocabulary."""

import argparse
import dataclasses

import numpy as np
import pytest
from flax import nnx

import block_recurrent.export
import block_recurrent.generate
from block_recurrent import (
    BlockRecurrentTransformer,
    Generator,
    UserError,
    load_model,
    save_model,
)
from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.prepare.store_writer import ShardWriter, finish_store
from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.store_format import VOCABULARY_FILES
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary, OtherVocabulary
from block_recurrent.data.vocabulary_storage import (
    describe_for_model,
    describe_vocabulary,
    model_vocabulary,
    save_vocabulary,
    saved_vocabulary,
)
from block_recurrent.export import read_vocabulary
from block_recurrent.generate import load_generator
from block_recurrent.training.trainer import Trainer
from block_recurrent.training.workdir import run_vocabulary
from tiny import TINY
from vocabularies import LINES, ODD_IDS, byte_level_tokenizer, sentencepiece_model

PROMPT = "the state of a block"


@pytest.fixture(scope="module", params=["sentencepiece", "tokenizer"])
def vocabulary(request):
    if request.param == "sentencepiece":
        return SentencePieceVocabulary(sentencepiece_model())
    return TokenizerVocabulary(byte_level_tokenizer(("<pad>", "</s>")).to_str().encode())


@pytest.fixture(scope="module")
def model(vocabulary):
    small = {"num_layers": 1, "recurrent_layers": (0,)}
    config = dataclasses.replace(TINY, vocab_size=vocabulary.size, **small)
    return BlockRecurrentTransformer(config, rngs=nnx.Rngs(3))


@pytest.fixture
def run(run_command):
    def run(program, *arguments: str) -> str:
        """What a command prints; it must succeed."""
        status, out, err = run_command(program.main, *arguments)
        assert (status, err) == (0, "")
        return out

    return run


def test_a_file_writes_until_the_end_of_its_own_vocabulary(vocabulary, model, run, tmp_path):
    """A token that the model writes is made the end: nothing else knows that token."""
    prompt = vocabulary.encode(PROMPT.encode())
    [tokens] = Generator(model).generate([prompt], num_tokens=20)
    tokens = tokens.tolist()
    end = next(i for i, token in enumerate(tokens) if i > 1 and token not in tokens[:i])
    ending = type(vocabulary)(vocabulary.file.content, vocabulary.size, tokens[end])
    path = tmp_path / "model.safetensors"
    save_model(path, model, "float32", vocabulary.file.content, **describe_for_model(ending))
    options = f"--model={path}", f"--prompt={PROMPT}", "--num_tokens=20"
    both, before = (vocabulary.decode([*prompt.tolist(), *tokens[:n]]) for n in (end, 0))
    expected = both[len(before) :].decode("utf-8", "replace")
    assert run(block_recurrent.generate, *options) == expected
    assert model_vocabulary(path, load_model(path)[1]).end_id == tokens[end]


def test_the_copy_in_the_run_is_enough(vocabulary, tmp_path):
    data = DataConfig("store", stores=("nowhere",), vocabulary=vocabulary.name)
    with pytest.raises(UserError, match="no token store in nowhere"):
        run_vocabulary(tmp_path, data)
    save_vocabulary(tmp_path, vocabulary)
    found = run_vocabulary(tmp_path, data)
    assert describe_vocabulary(found) == describe_vocabulary(vocabulary)
    assert found.file.content == vocabulary.file.content
    assert found.encode(PROMPT.encode()).tolist() == vocabulary.encode(PROMPT.encode()).tolist()


def test_a_copy_that_changed(vocabulary, tmp_path):
    save_vocabulary(tmp_path, vocabulary)
    data = DataConfig("store", stores=("nowhere",), vocabulary=vocabulary.name)
    other = sentencepiece_model(**ODD_IDS), byte_level_tokenizer(("<eos>",)).to_str().encode()
    content = other[vocabulary.kind == "tokenizer"]
    (tmp_path / VOCABULARY_FILES[vocabulary.kind]).write_bytes(content)
    with pytest.raises(UserError, match="has a copy of the vocabulary .*: restore the copy"):
        run_vocabulary(tmp_path, data)
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(UserError, match="vocabulary.json does not describe a vocabulary: restore"):
        run_vocabulary(tmp_path, data)


def test_bytes_and_custom_vocabularies_need_no_copy(tmp_path):
    for vocabulary in (ByteVocabulary(), OtherVocabulary(300, 2)):
        save_vocabulary(tmp_path, vocabulary)
    assert not list(tmp_path.iterdir()) and saved_vocabulary(tmp_path) is None
    assert run_vocabulary(tmp_path, DataConfig(vocabulary="bytes")).name == "bytes"


def test_a_file_without_its_vocabulary(vocabulary, model, tmp_path):
    """As earlier versions wrote it: the name only."""
    save_model(path := tmp_path / "model.safetensors", model, vocabulary=vocabulary.name)
    with pytest.raises(UserError, match="does not contain the model's vocabulary: export"):
        load_generator(
            argparse.Namespace(workdir=None, model=path, step="latest", weights="raw", average=1)
        )


def test_an_export_without_the_vocabulary(vocabulary, capsys, tmp_path):
    """A run of an earlier version, whose folder has no copy, and whose store is gone."""
    data = DataConfig("store", stores=("nowhere",), vocabulary=vocabulary.name)
    assert read_vocabulary(tmp_path, data) == (b"", {"vocabulary": vocabulary.name})
    assert capsys.readouterr().out.startswith("without the vocabulary: no token store in nowhere")
    save_vocabulary(tmp_path, vocabulary)
    content, about = read_vocabulary(tmp_path, data)
    assert content == vocabulary.file.content and about == describe_for_model(vocabulary)


def write_store(folder, vocabulary):
    folder.mkdir()
    for split, lines in {"train": LINES[:20], "held_out": LINES[20:24]}.items():
        with ShardWriter(folder, split, 0, vocabulary.size) as writer:
            for number, line in enumerate(lines):
                tokens = np.append(vocabulary.encode(line.encode()), vocabulary.end_id)
                writer.add(tokens, line.encode())
                writer.end_document(str(number))
    (folder / VOCABULARY_FILES[vocabulary.kind]).write_bytes(vocabulary.file.content)
    described = describe_vocabulary(vocabulary)
    finish_store(folder, task="t", vocabulary=described, shards={"train": 1, "held_out": 1})


@pytest.mark.slow
def test_a_run_and_its_export_write_without_the_store(vocabulary, model, run, tmp_path):
    write_store(store := tmp_path / "store", vocabulary)
    steps = {"num_steps": 2, "log_every_steps": 1, "eval_every_steps": 2, "sample_tokens": 4}
    train = TrainConfig(batch_size=2, segment_length=32, checkpoint_every_steps=2, **steps)
    data = DataConfig("store", stores=(str(store),))
    assert Trainer(RunConfig(model.config, train, data=data), tmp_path / "run").run()
    store.rename(tmp_path / "moved")
    file = tmp_path / "model.safetensors"
    run(block_recurrent.export, f"--workdir={tmp_path}/run", f"--output={file}")
    options = f"--prompt={PROMPT}", "--num_tokens=30"
    text = run(block_recurrent.generate, f"--workdir={tmp_path}/run", *options)
    assert text and text == run(block_recurrent.generate, f"--model={file}", *options)
