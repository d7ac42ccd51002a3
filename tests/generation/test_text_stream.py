"""Decoding a stream of tokens to text."""

import io

import pytest
import sentencepiece

from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.generation.text_stream import TextStream

TEXT = "Größe, 漢字 and 🙂 in one line; words of several pieces, several words."


@pytest.fixture(scope="module")
def pieces():
    """A small SentencePiece vocabulary with byte fallback."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["words of several pieces", "in one line of several words"] * 9),
        model_writer=model,
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return SentencePieceVocabulary(model.getvalue())


def read(stream, tokens, step):
    parts = [stream.add(tokens[i : i + step]) for i in range(0, len(tokens), step)]
    return [*parts, stream.end()]


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_parts_join_to_the_text(name, step, pieces):
    vocabulary = ByteVocabulary() if name == "bytes" else pieces
    tokens = vocabulary.encode(TEXT.encode()).tolist()
    parts = read(TextStream(vocabulary), tokens, step)
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)


def test_the_first_piece_keeps_its_space(pieces):
    before, after = (pieces.encode(text).tolist() for text in (b"several", b"words"))
    assert "".join(read(TextStream(pieces, before), after, 1)) == " words"
    assert "".join(read(TextStream(pieces), after, 1)) == "words"


def test_bytes_that_are_not_text():
    tokens = ByteVocabulary().encode(b"a\xffb\xe6\xbc").tolist()
    assert "".join(read(TextStream(ByteVocabulary()), tokens, 1)) == "a\ufffdb\ufffd"
    assert "".join(read(TextStream(ByteVocabulary()), [*tokens[:1], 1], 1)) == "a"
