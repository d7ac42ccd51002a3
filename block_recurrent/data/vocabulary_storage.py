"""Where vocabularies come from: gin files, token stores, folders of runs, exported models."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.store_format import VOCABULARY_FILES
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary, OtherVocabulary, Vocabulary
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath

T5_VOCABULARY = "https://storage.googleapis.com/t5-data/vocabs/cc_all.32000/sentencepiece.model"

FILE_VOCABULARIES = {"sentencepiece": SentencePieceVocabulary, "tokenizer": TokenizerVocabulary}


def load_vocabulary(name: str) -> Vocabulary:
    """Loads what `prepare.vocabulary` names.

    Args:
      name: 'bytes', or the path of a tokenizer.json (any name that ends in .json) or of a
        SentencePiece model, on disk or in a bucket.

    Raises:
      UserError: the file is missing, or is no vocabulary.
    """
    if name == ByteVocabulary.name:
        return ByteVocabulary()
    kind = "tokenizer" if name.endswith(".json") else "sentencepiece"
    vocabulary = FILE_VOCABULARIES[kind](epath.Path(name).expanduser())
    try:
        vocabulary.size  # reads the file  # noqa: B018
    except UserError as error:
        raise UserError(
            f"prepare.vocabulary = '{name}': {error}; it can be a SentencePiece .model (T5's is at "
            f"{T5_VOCABULARY}), a tokenizer.json, or 'bytes'"
        ) from error
    return vocabulary


def describe_vocabulary(vocabulary: Vocabulary) -> dict[str, str | int]:
    """The description in store.json, from which `open_vocabulary` makes the vocabulary again."""
    return {"kind": vocabulary.kind, "size": vocabulary.size, "eos": vocabulary.end_id}


def open_vocabulary(described: Mapping[str, Any], source: AnyPath | bytes) -> Vocabulary:
    """Makes a vocabulary from its description.

    Args:
      described: see `describe_vocabulary`.
      source: the folder with the vocabulary's file, or the content of that file. The file is not
        read yet.

    Raises:
      KeyError: the description is incomplete.
    """
    kind = described["kind"]
    if kind == ByteVocabulary.kind:
        return ByteVocabulary()
    if kind in FILE_VOCABULARIES:
        if not isinstance(source, bytes):
            source = source / VOCABULARY_FILES[kind]
        return FILE_VOCABULARIES[kind](source, described["size"], described["eos"])
    return OtherVocabulary(described["size"], described["eos"])
