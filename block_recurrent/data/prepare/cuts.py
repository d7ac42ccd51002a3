"""Where documents may be cut into pieces that have the same tokens as the whole text."""

import itertools

from block_recurrent.data.prepare.folder_documents import Cut
from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary, Vocabulary

# Texts before and after the cuts that 'between_words' makes: between words, and between lines.
BEFORE = ("one", "it's", "x = 3, y", "漢 a", "\n\n    if a", "A")
AFTER = (" two", " a.", " x(3)", " I'm 1")
LINES_BEFORE = ("one\n", "it's 3.\n", "a:\r\n x\n", "。\n", "é\n", ")}\n", "//\n", "  a = 1\n")
LINES_AFTER = ("two", "1. a", "É", "漢字")


def cut_for(vocabulary: Vocabulary) -> Cut:
    """Where a document may be cut, if its pieces must have the same tokens as the whole text."""
    if isinstance(vocabulary, ByteVocabulary):
        return "anywhere"
    if isinstance(vocabulary, SentencePieceVocabulary) and _tokenizes_words_apart(vocabulary):
        return "at_spaces"
    if isinstance(vocabulary, SentencePieceVocabulary) and _splits_before_spaces(vocabulary):
        return "between_words"
    if isinstance(vocabulary, TokenizerVocabulary) and _splits_between_words(vocabulary):
        return "between_words"
    return "nowhere"


def _tokenizes_words_apart(vocabulary: SentencePieceVocabulary) -> bool:
    """Whether a model, such as T5's, gives the same tokens to words on their own."""
    model = _read_model(vocabulary)
    rules = model.normalizer_spec
    return (
        rules.add_dummy_prefix  # the start of a text is tokenized like the start of a word,
        and rules.remove_extra_whitespaces  # a space at the end of a piece gives no token,
        and rules.escape_whitespaces
        and not any("▁" in piece.piece[1:] for piece in model.pieces)  # and no token spans words
    )


def _splits_before_spaces(vocabulary: SentencePieceVocabulary) -> bool:
    """Whether a model that keeps all white space, as `train_unigram` makes it, splits at it."""
    model = _read_model(vocabulary)
    rules = model.normalizer_spec
    return (
        rules.name == "identity"
        and rules.escape_whitespaces
        and not rules.add_dummy_prefix
        and not rules.remove_extra_whitespaces
        and any(each.piece == "\n" and each.type == each.USER_DEFINED for each in model.pieces)
        and not any("▁" in piece.piece.lstrip("▁") for piece in model.pieces)
    )


def _read_model(vocabulary: SentencePieceVocabulary):
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(vocabulary.file.content)


def _splits_between_words(vocabulary: TokenizerVocabulary) -> bool:
    """Whether a text is first split into words, at all cuts that 'between_words' makes."""
    cuts = [*itertools.product(BEFORE, AFTER), *itertools.product(LINES_BEFORE, LINES_AFTER)]
    words = vocabulary.words
    return not vocabulary.spans_words and all(
        words(before + after) == words(before) + words(after) for before, after in cuts
    )
