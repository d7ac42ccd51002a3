"""Vocabularies of every kind: their ids, and texts that come back."""

import json
from codecs import BOM_UTF8

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from block_recurrent import UserError
from block_recurrent.data.prepare.cuts import cut_for
from block_recurrent.data.prepare.folder_documents import cut_pieces
from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.store_format import VOCABULARY_FILES
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabularies import (
    ByteVocabulary,
    OtherVocabulary,
    Vocabulary,
    encode_prompt,
)
from block_recurrent.data.vocabulary_storage import (
    describe_vocabulary,
    load_vocabulary,
    open_vocabulary,
)
from vocabularies import (
    LINES,
    LOSSLESS,
    NO_END,
    ODD_IDS,
    T5_IDS,
    byte_fallback_tokenizer,
    byte_level_tokenizer,
    sentencepiece_model,
    word_piece_tokenizer,
)

TEXT = "the state of 漢字 and 🙂,\n\n\tnaïve  window <|endoftext|></s> "


def content(tokenizer: tokenizers.Tokenizer) -> bytes:
    return tokenizer.to_str().encode()


@pytest.fixture(scope="module")
def byte_level() -> bytes:
    return content(byte_level_tokenizer())


@pytest.mark.parametrize(
    "options, end, unknown, added",
    [({}, 2, 0, 0), (T5_IDS, 1, 2, 0), (ODD_IDS, 7, 3, 0), (NO_END, None, 0, 1)],
)
def test_ids_of_sentencepiece_come_from_the_model(options, end, unknown, added):
    vocabulary = SentencePieceVocabulary(sentencepiece_model(**options))
    pieces = vocabulary._model.get_piece_size()
    assert isinstance(vocabulary, Vocabulary)
    assert vocabulary.end_id == (pieces if end is None else end)
    assert (vocabulary.unknown_id, vocabulary.size) == (unknown, pieces + added)
    tokens = vocabulary.encode(b"the state \xe2\x88\x9e")
    assert unknown in tokens and vocabulary.end_id not in tokens
    words = vocabulary.encode(b"the state").tolist()
    assert vocabulary.decode([*words, vocabulary.end_id]) == b"the state"
    with pytest.raises(UserError, match="the prompt has characters .* vocabulary \\(∞\\): remove"):
        encode_prompt("the ∞".encode(), vocabulary, "the prompt")


def test_ids_of_tokenizers_come_from_the_file(byte_level):
    vocabulary = TokenizerVocabulary(byte_level)
    assert isinstance(vocabulary, Vocabulary)
    assert (vocabulary.size, vocabulary.end_id, vocabulary.unknown_id) == (300, 0, None)
    other = TokenizerVocabulary(content(byte_level_tokenizer(("<pad>", "</s>"))))
    assert (other.size, other.end_id) == (300, 1)
    none = TokenizerVocabulary(content(byte_level_tokenizer(("<pad>", "<mask>"))))
    assert (none.size, none.end_id) == (301, 300)
    words = TokenizerVocabulary(content(word_piece_tokenizer()))
    assert words.unknown_id == 1 and words.end_id == words.size - 1
    assert 1 in words.encode("∞".encode())
    assert TokenizerVocabulary(content(byte_fallback_tokenizer())).unknown_id == 0


def test_a_byte_order_mark_is_no_part_of_a_tokenizer(byte_level):
    plain, marked = TokenizerVocabulary(byte_level), TokenizerVocabulary(BOM_UTF8 + byte_level)
    assert marked.end_id == plain.end_id
    assert marked.encode(TEXT.encode()).tolist() == plain.encode(TEXT.encode()).tolist()


def test_a_text_cannot_contain_its_own_end(byte_level):
    for vocabulary in (
        TokenizerVocabulary(byte_level),
        TokenizerVocabulary(content(byte_fallback_tokenizer())),
        SentencePieceVocabulary(sentencepiece_model(**LOSSLESS)),
    ):
        tokens = vocabulary.encode(TEXT.encode())
        assert vocabulary.end_id not in tokens
        assert vocabulary.decode(tokens) == TEXT.encode()
        assert tokens.dtype == np.int32


def test_templates_padding_and_truncation_are_switched_off():
    tokenizer = byte_level_tokenizer()
    plain = TokenizerVocabulary(content(tokenizer)).encode(TEXT.encode())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    np.testing.assert_array_equal(
        TokenizerVocabulary(content(tokenizer)).encode(TEXT.encode()), plain
    )


@given(st.binary(max_size=40))
def test_bytes_that_are_no_text_decode_to_themselves(data):
    """Models can write any bytes, in any order."""
    names = byte_fallback_tokenizer().get_vocab()
    fallback = TokenizerVocabulary(content(byte_fallback_tokenizer()))
    assert fallback.decode([names[f"<0x{byte:02X}>"] for byte in data]) == data
    pieces = FALLBACK._model
    assert FALLBACK.decode([pieces.piece_to_id(f"<0x{byte:02X}>") for byte in data]) == data
    assert ByteVocabulary().decode(ByteVocabulary().encode(data)) == data


FALLBACK = SentencePieceVocabulary(sentencepiece_model(**LOSSLESS))


@given(st.lists(st.integers(-2, 302), max_size=30))
def test_byte_level_tokens_decode_as_the_library_decodes_them(ids):
    tokenizer = BYTE_LEVEL._tokenizer
    known = [i for i in ids if 0 <= i < 300]
    assert BYTE_LEVEL.decode(ids).decode("utf-8", "replace") == tokenizer.decode(known)


BYTE_LEVEL = TokenizerVocabulary(content(byte_level_tokenizer()))


def test_every_kind_is_opened_as_it_was_described(tmp_path, byte_level):
    model = sentencepiece_model(**NO_END)
    for vocabulary in (
        ByteVocabulary(),
        OtherVocabulary(300, 2),
        SentencePieceVocabulary(model),
        TokenizerVocabulary(byte_level),
    ):
        file = VOCABULARY_FILES.get(vocabulary.kind)
        if file:
            (tmp_path / file).write_bytes(vocabulary.file.content)
        described = json.loads(json.dumps(describe_vocabulary(vocabulary)))
        sources = [tmp_path, vocabulary.file.content] if file else [tmp_path]
        for again in (open_vocabulary(described, source) for source in sources):
            assert describe_vocabulary(again) == describe_vocabulary(vocabulary)
            assert again.name == vocabulary.name
            assert again.unknown_id == vocabulary.unknown_id
    (tmp_path / "mine.json").write_bytes(byte_level)
    (tmp_path / "mine.model").write_bytes(model)
    assert load_vocabulary(str(tmp_path / "mine.json")).kind == "tokenizer"
    assert load_vocabulary(str(tmp_path / "mine.model")).kind == "sentencepiece"
    assert load_vocabulary("bytes").kind == "bytes"


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"version": "1.0", "model": {"type": "New"}}'])
def test_files_that_are_no_tokenizer(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as error:
        load_vocabulary(str(tmp_path / "a.json"))
    reader = f"tokenizers {tokenizers.__version__}"
    assert f"a.json is not a tokenizer.json that {reader} can read (" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"once upon a time", b"\x00\xff"])
def test_files_that_are_no_sentencepiece_model(data, tmp_path):
    (tmp_path / "a.model").write_bytes(data)
    with pytest.raises(UserError, match="a.model is not a SentencePiece model .*: name a .model"):
        load_vocabulary(str(tmp_path / "a.model"))


# Where documents may be cut


def test_tokenizers_that_split_words_are_cut_between_words(byte_level):
    assert cut_for(TokenizerVocabulary(byte_level)) == "between_words"
    assert cut_for(TokenizerVocabulary(content(byte_fallback_tokenizer()))) == "nowhere"
    spanning = byte_level_tokenizer()
    spanning.add_tokens(["state of"])
    assert cut_for(TokenizerVocabulary(content(spanning))) == "nowhere"
    sentences = byte_level_tokenizer()
    sentences.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(use_regex=False)
    assert cut_for(TokenizerVocabulary(content(sentences))) == "nowhere"


CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.fixture(scope="module", params=["gpt2", "cl100k"])
def splitting(request) -> TokenizerVocabulary:
    tokenizer = byte_level_tokenizer()
    if request.param == "cl100k":
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(CL100K), "isolated")
        rest = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, rest])
    return TokenizerVocabulary(content(tokenizer))


PARTS = [*"ab '3.\n\t\r/(", "\u3000", "\xa0", "\x85", "\u2028", "。", "漢", "é", *LINES[:2]]


@given(text=st.lists(st.sampled_from(PARTS), max_size=60).map("".join), limit=st.integers(8, 60))
def test_pieces_have_the_tokens_of_the_whole_text(text, limit, splitting, tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "text"
    path.write_bytes(text.encode())
    pieces = [piece for piece, _ in cut_pieces([text.encode()], "between_words", limit)]
    assert b"".join(pieces) == text.encode()
    tokens = [token for piece in pieces for token in splitting.encode(piece).tolist()]
    assert tokens == splitting.encode(text.encode()).tolist()


def test_pieces_are_short_where_there_are_words_or_lines():
    for text in (" ".join(LINES), "漢字。\n" * 1000):
        pieces = list(cut_pieces([text.encode()], "between_words", limit=100))
        assert max(len(piece) for piece, _ in pieces) <= 100 and len(pieces) > 30
