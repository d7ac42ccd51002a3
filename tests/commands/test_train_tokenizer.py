"""Vocabularies that train_tokenizer makes from a corpus."""

import functools
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import block_recurrent.train_tokenizer
from block_recurrent import UserError
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.prepare.cuts import cut_for
from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.text_sample import CHUNK_TOKENS, sample_text
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabulary_storage import load_vocabulary
from block_recurrent.data.vocabulary_training import train_bpe, train_unigram
from preparing import environment
from vocabularies import LINES

GIN = "--gin_file=gin/data/text_files.gin", "--gin_bindings=data.path = 'texts'"
HELD_OUT = "zyzzyva"


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder of texts, of which those held out have a word of their own."""
    monkeypatch.chdir(tmp_path)
    (folder := tmp_path / "texts").mkdir()
    for number in range(60):
        (folder / f"{number}.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (folder / "valid.txt").write_text(f"{HELD_OUT} " * 500)
    return tmp_path


@pytest.fixture
def run(corpus, run_command):
    return functools.partial(run_command, block_recurrent.train_tokenizer.main)


@pytest.mark.parametrize("kind, output", [("bpe", "my.json"), ("unigram", "my.model")])
def test_a_vocabulary_of_a_corpus(kind, output, run, corpus):
    options = f"--kind={kind}", "--size=400", f"--output={output}", "--special_tokens", "<a>", "<b>"
    status, out, err = run(*GIN, *options)
    assert (status, err) == (0, "")
    assert out.endswith(f"set prepare.vocabulary = '{corpus / output}' for prepare_data\n")
    assert ("\nchoosing the pieces: takes several times" in out) == (kind == "unigram")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    vocabulary = load_vocabulary(output)
    assert f"{output}: {vocabulary.size:,} tokens, " in out and 260 < vocabulary.size <= 400
    ids = range(vocabulary.size)
    library = vocabulary._tokenizer if kind == "bpe" else vocabulary._model
    names = [library.id_to_token(i) if kind == "bpe" else library.id_to_piece(i) for i in ids]
    assert not any("zyz" in name for name in names) and any("state" in name for name in names)
    for name in ("<a>", "<b>"):
        assert name in names and names.index(name) not in vocabulary.encode(name.encode())
    text = f"the state\n\n\t of {HELD_OUT}\r\n 漢字 <a> ".encode()
    assert vocabulary.decode(vocabulary.encode(text)) == text
    first = (corpus / output).read_bytes()
    run(*GIN, *options)
    assert (corpus / output).read_bytes() == first


VOCABULARIES = {
    "bpe": TokenizerVocabulary(train_bpe(LINES, 400)),
    "unigram": SentencePieceVocabulary(train_unigram(LINES, 400)),
}


@pytest.mark.parametrize("kind", VOCABULARIES)
@given(text=st.text(max_size=40) | st.text(st.sampled_from([*" \n\t\0the<>/s"]), max_size=40))
def test_every_text_comes_back(kind, text):
    """Only SentencePiece's own sign for a space becomes one."""
    vocabulary, text = VOCABULARIES[kind], text.replace("▁", "").encode("utf-8", "replace")
    tokens = vocabulary.encode(text)
    assert vocabulary.decode(tokens) == text
    assert vocabulary.end_id not in tokens and vocabulary.unknown_id not in tokens


def test_documents_are_cut_between_words():
    assert {cut_for(vocabulary) for vocabulary in VOCABULARIES.values()} == {"between_words"}


@given(
    before=st.sampled_from(["the state", "one\n", "a  b\n\n x", "漢字\n", "é"]),
    after=st.sampled_from([" of", " window  \n", "the\n", "漢"]),
)
def test_cuts_of_a_unigram_model(before, after):
    space, line = after.startswith(" ") and before[-1].isascii(), before.endswith("\n")
    if (space and before[-1].isalpha()) or (line and not after.startswith(" ")):
        encode = VOCABULARIES["unigram"].encode
        parts = [*encode(before.encode()), *encode(after.encode())]
        assert encode((before + after).encode()).tolist() == parts


def test_a_sample_is_spread_and_reproducible():
    texts = {str(i): bytes([97 + i]) * (3 * CHUNK_TOKENS + i) for i in range(20)}
    documents = ByteDocuments(texts)
    assert "".join(sample_text(documents, 10**9)).encode() == b"".join(texts.values())
    sample = list(sample_text(documents, 10 * CHUNK_TOKENS))
    assert sample == list(sample_text(documents, 10 * CHUNK_TOKENS))
    assert 10 * CHUNK_TOKENS <= sum(map(len, sample)) < 11 * CHUNK_TOKENS
    assert len({text[0] for text in sample}) > 5
    assert np.all([len(set(text)) == 1 for text in sample])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output=my.model"], "--output=my.model: give a name that ends in .json"),
        (["--output=no/my.json"], "no folder no for --output=no/my.json: create it first"),
        (["--output=my.json", "--size=0"], "--size=0: give 1 or more"),
        (["--output=my.json", "--sample=0"], "--sample=0: give 1 or more"),
        (
            ["--output=my.json", "--size=256"],
            "--size=256 leaves no room for 256 bytes and 1 special tokens: give at least 257",
        ),
        (
            ["--output=my.json", "--special_tokens", "a", "a"],
            "--special_tokens a a: give each token a name of its own, other than <|endoftext|>, ",
        ),
        (
            ["--output=my.model", "--kind=unigram", "--size=9"],
            "SentencePiece cannot train a model of --size=9 on this text (",
        ),
    ],
)
def test_mistakes(arguments, message, run, corpus):
    status, _, err = run(*GIN, *arguments)
    assert status == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert [path.name for path in corpus.iterdir()] == ["texts"]


def test_an_unwritable_output(run, corpus):
    (corpus / "my.json").mkdir()
    status, _, err = run(*GIN, "--output=my.json", "--size=300")
    assert status == 2 and err.startswith("error: cannot write --output=my.json (")
    with pytest.raises(UserError):
        train_bpe(LINES, 100)


@pytest.mark.parametrize("train", [train_bpe, train_unigram])
@pytest.mark.parametrize("error", [UserError("cannot read a.txt"), KeyboardInterrupt()])
def test_errors_of_reading_are_not_those_of_training(train, error):
    def texts():
        yield from LINES
        raise error

    with pytest.raises(type(error)):
        train(texts(), 400)


@pytest.mark.parametrize(
    "output, line",
    [("my.json", "training"), pytest.param("my.model", "choosing", marks=pytest.mark.slow)],
)
def test_ctrl_c_during_training(output, line, corpus):
    """In native code, which would not notice it before its end."""
    (corpus / "texts" / "large.txt").write_text("\n".join(map(str, range(400_000))))
    command = [sys.executable, "-m", "block_recurrent.train_tokenizer", *GIN]
    command += ["--kind=bpe" if output == "my.json" else "--kind=unigram"]
    command += [f"--output={output}", "--size=4000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), text=True) as process:
        while not process.stdout.readline().startswith(line):
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait() == -signal.SIGINT
    assert not (corpus / output).exists()
