"""Decoding a stream of tokens to text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.generation.text_stream import TextStream
from vocabularies import (
    LOSSLESS,
    T5_IDS,
    byte_fallback_tokenizer,
    byte_level_tokenizer,
    sentencepiece_model,
)

TEXT = "Größe, 漢字 and 🙂 in one line; words of several pieces, several words."

VOCABULARIES = {
    "bytes": ByteVocabulary(),
    "pieces": SentencePieceVocabulary(sentencepiece_model(byte_fallback=True, **T5_IDS)),
    "lossless pieces": SentencePieceVocabulary(sentencepiece_model(**LOSSLESS)),
    "byte-level": TokenizerVocabulary(byte_level_tokenizer().to_str().encode()),
    "byte fallback": TokenizerVocabulary(byte_fallback_tokenizer().to_str().encode()),
}


def read(stream, tokens, step):
    parts = [stream.add(tokens[i : i + step]) for i in range(0, len(tokens), step)]
    return [*parts, stream.end()]


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("name", VOCABULARIES)
def test_parts_join_to_the_text(name, step):
    vocabulary = VOCABULARIES[name]
    tokens = vocabulary.encode(TEXT.encode()).tolist()
    parts = read(TextStream(vocabulary), tokens, step)
    assert "".join(parts) == TEXT
    assert not any("\ufffd" in part for part in parts)


def test_the_first_piece_keeps_its_space():
    pieces = VOCABULARIES["pieces"]
    before, after = (pieces.encode(text).tolist() for text in (b"next", b"window"))
    assert "".join(read(TextStream(pieces, before), after, 1)) == " window"
    assert "".join(read(TextStream(pieces), after, 1)) == "window"


def test_bytes_that_are_not_text():
    tokens = ByteVocabulary().encode(b"a\xffb\xe6\xbc").tolist()
    assert "".join(read(TextStream(ByteVocabulary()), tokens, 1)) == "a\ufffdb\ufffd"
    assert "".join(read(TextStream(ByteVocabulary()), [*tokens[:1], 1], 1)) == "a"


def cut(items, places):
    """Cuts a sequence at these places, which can be equal or outside."""
    places = [0, *sorted(place % (len(items) + 1) for place in places), len(items)]
    return [items[start:stop] for start, stop in zip(places, places[1:], strict=False)]


def streamed(vocabulary, parts) -> str:
    """The text of the parts: of the first ones in one stream, of each later one in its own."""
    stream, text = TextStream(vocabulary), ""
    for number, part in enumerate(parts):
        if number >= 2:  # as from a saved state
            stream = TextStream(vocabulary, stream.context)
        text += stream.add(part)
    return text + stream.end()


@given(data=st.binary(max_size=60), places=st.lists(st.integers(0), max_size=6))
def test_any_bytes_cut_anywhere_stream_to_the_whole(data, places):
    vocabulary = ByteVocabulary()
    tokens = vocabulary.encode(data).tolist()
    assert streamed(vocabulary, cut(tokens, places)) == data.decode("utf-8", "replace")


CHARACTERS = st.text(st.sampled_from([*" \n\tabst é漢🙂\u0301\ufffd"]), max_size=12)


@pytest.mark.parametrize("name", VOCABULARIES)
@given(
    text=CHARACTERS,
    ids=st.lists(st.integers(0, 262), max_size=40),
    places=st.lists(st.integers(0), max_size=6),
)
def test_any_tokens_cut_anywhere_stream_to_the_whole(name, text, ids, places):
    """Tokens of a text, and after them tokens that no text has, as a model may write them."""
    vocabulary = VOCABULARIES[name]
    tokens = [*vocabulary.encode(text.encode()).tolist(), *ids]
    whole = vocabulary.decode(tokens).decode("utf-8", "replace")
    assert streamed(vocabulary, cut(tokens, places)) == whole


def test_nothing_is_shown_before_its_character_is_complete():
    """Not even after four bytes, if the earlier ones are no part of the character."""
    stream = TextStream(ByteVocabulary())
    data = b"\xff\xff\xff\xe6\xbc\xa2\xf0\x9f\x99\x82"
    shown = [stream.add(ByteVocabulary().encode(data[i : i + 1]).tolist()) for i in range(10)]
    assert shown == ["\ufffd"] * 3 + ["", "", "漢", "", "", "", "🙂"]
    assert stream.end() == ""


def test_a_stream_continues_after_tokens_without_text():
    """The bytes of an incomplete character are kept, however many special tokens follow."""
    first, rest = ([3 + byte for byte in part] for part in (b"a\xf0\x9f", b"\x99\x82b"))
    stream = TextStream(ByteVocabulary(), [*first, *[0] * 50])
    assert TextStream(ByteVocabulary(), stream.context).add(rest) == "🙂b"
