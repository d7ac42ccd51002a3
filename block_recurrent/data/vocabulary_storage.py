"""Where vocabularies come from: gin files, token stores, folders of runs, exported models."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

from block_recurrent.data.sentencepiece_vocabulary import SentencePieceVocabulary
from block_recurrent.data.store_format import VOCABULARY_FILES
from block_recurrent.data.tokenizer_vocabulary import TokenizerVocabulary
from block_recurrent.data.vocabularies import ByteVocabulary, OtherVocabulary, Vocabulary
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath
from block_recurrent.files.writing import atomic_write
from block_recurrent.interop.model_file import load_attachment

T5_VOCABULARY = "https://storage.googleapis.com/t5-data/vocabs/cc_all.32000/sentencepiece.model"

DESCRIPTION = "vocabulary.json"  # in the folder of a run
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
    vocabulary = FILE_VOCABULARIES[kind](epath.Path(os.path.expanduser(name)))
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
      KeyError, TypeError, ValueError: the description is not one.
    """
    kind = described["kind"]
    if kind == ByteVocabulary.kind:
        return ByteVocabulary()
    size, end_id = int(described["size"]), int(described["eos"])
    if kind in FILE_VOCABULARIES:
        if not isinstance(source, bytes):
            source = source / VOCABULARY_FILES[kind]
        return FILE_VOCABULARIES[kind](source, size, end_id)
    return OtherVocabulary(size, end_id)


def save_vocabulary(folder: AnyPath, vocabulary: Vocabulary):
    """Copies a vocabulary's file into a folder, with its description; see `saved_vocabulary`."""
    if vocabulary.kind in FILE_VOCABULARIES and not (folder / DESCRIPTION).exists():
        described = json.dumps(describe_vocabulary(vocabulary)).encode()
        files = {VOCABULARY_FILES[vocabulary.kind]: vocabulary.file.content, DESCRIPTION: described}
        for name, content in files.items():
            with atomic_write(folder / name) as file:
                file.write(content)


def saved_vocabulary(folder: AnyPath) -> Vocabulary | None:
    """The vocabulary that `save_vocabulary` copied into the folder; None if there is none.

    Raises:
      UserError: the description is damaged.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        return None
    try:
        return open_vocabulary(json.loads(path.read_text(encoding="utf-8")), folder)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a vocabulary: restore it") from error


def describe_for_model(vocabulary: Vocabulary) -> dict[str, str]:
    """Entries of the header of a model's file, from which `model_vocabulary` reads them."""
    described = json.dumps(describe_vocabulary(vocabulary))
    return {"vocabulary": vocabulary.name, "vocabulary_description": described}


def model_vocabulary(path: str | Path, about: Mapping[str, str]) -> Vocabulary:
    """The vocabulary of a model that `block_recurrent.export` wrote.

    Args:
      path: the file of the model.
      about: the entries of its header, from `load_model`.

    Raises:
      UserError: the file does not contain the vocabulary.
    """
    if about.get("vocabulary") == ByteVocabulary.name:
        return ByteVocabulary()
    content = load_attachment(path)
    try:
        described = json.loads(about["vocabulary_description"])
        if content:
            return open_vocabulary(described, content)
    except (KeyError, TypeError, ValueError):
        pass
    raise UserError(
        f"{path} does not contain the model's vocabulary: export the model from its run again, or "
        "generate from the run, with --workdir"
    )
