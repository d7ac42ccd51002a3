"""Corpora, as documents of tokens."""

import dataclasses
import os
from typing import Annotated, Literal

from block_recurrent.data.documents import Documents
from block_recurrent.data.embedded import load_standard_library
from block_recurrent.data.mixture import Mixture
from block_recurrent.data.recall import SPLITS, RecallDocuments
from block_recurrent.data.store import open_stores
from block_recurrent.data.text_files import load_text_files
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What `data.…` in a gin file sets.

    Attributes:
      corpus: 'standard_library' (Python's own source, on every machine), 'text_files' (the files of
        a folder), 'store' (token stores made by prepare_data), or 'recall' (made-up documents with
        facts at the start and questions about them at the end).
      path: the folder of text files, or of what prepare_data reads.
      glob: which files of the folder, for example '**/*.txt'.
      held_out_per_mille: documents in a thousand kept for evaluation, chosen by their names; a
        token store has its own.
      stores: folders of token stores; several are mixed.
      weights: one a store: the tokens read of each are in this proportion; empty: as they are.
      vocabulary: the name of the one that the tokens must be of; None: that of the corpus, which
        the config.gin of a run then names.
      recall_facts: that a document of 'recall' states, and asks for.
      recall_values: that a fact may have; a guess is right in one of so many.
      recall_filler: least and most between facts and questions, uniform in the logarithm.
    """

    corpus: Literal["standard_library", "text_files", "store", "recall"] = "standard_library"
    path: str | None = None
    glob: str = "**/*"
    held_out_per_mille: Annotated[int, "‰ of documents"] = 20
    stores: tuple[str, ...] = ()
    weights: Annotated[tuple[float, ...], "tokens, relative"] = ()
    vocabulary: str | None = None
    recall_facts: Annotated[int, "facts"] = 8
    recall_values: Annotated[int, "values"] = 16
    recall_filler: Annotated[tuple[int, ...], "bytes"] = (1, 2048)

    def resolved(self, vocabulary: Vocabulary) -> "DataConfig":
        """The same, good from any folder and for no other vocabulary: what a run keeps."""
        path = None if self.path is None else _absolute(self.path)
        stores = tuple(map(_absolute, self.stores))
        return dataclasses.replace(self, path=path, stores=stores, vocabulary=vocabulary.name)


def load_documents(config: DataConfig) -> dict[str, Documents]:
    """The documents of each split: "train", "held_out", and in a store perhaps others.

    Opens no document yet.

    Raises:
      UserError: a corpus that is not there, is damaged, or has another vocabulary.
    """
    loaders = {
        "standard_library": _standard_library,
        "text_files": _text_files,
        "store": _token_stores,
        "recall": _recall,
    }
    if config.corpus not in loaders:
        choices = ", ".join(map(repr, loaders))
        raise UserError(f"data.corpus = '{config.corpus}' is unknown: choose from {choices}")
    documents = loaders[config.corpus](config)
    found = documents["train"].vocabulary.name
    if config.vocabulary not in (None, found):
        raise UserError(
            f"the corpus has the vocabulary {found}, and the model learnt {config.vocabulary}: "
            "name the corpus that it learnt from, or one prepared with the same vocabulary"
        )
    return documents


def _standard_library(config: DataConfig) -> dict[str, Documents]:
    if config.path is not None:
        raise UserError(
            f"data.path = '{config.path}' is for data.corpus = 'text_files', but the corpus "
            "is 'standard_library': set the one or leave out the other"
        )
    return load_standard_library(config.held_out_per_mille)


def _text_files(config: DataConfig) -> dict[str, Documents]:
    if config.path is None:
        raise UserError("data.corpus = 'text_files' needs a folder: set data.path")
    return load_text_files(config.path, config.glob, config.held_out_per_mille)


def _token_stores(config: DataConfig) -> dict[str, Documents]:
    if not config.stores:
        raise UserError("data.corpus = 'store' needs token stores: set data.stores = ('my/store',)")
    weights = config.weights or (None,) * len(config.stores)
    if len(weights) != len(config.stores):
        raise UserError(
            f"data.weights = {config.weights} has {len(weights)} numbers for {len(config.stores)} "
            "stores: give one for each, or () for all as they are"
        )
    splits: dict[str, list] = {}
    for folder, weight in zip(config.stores, weights, strict=True):
        for split, parts in open_stores(folder).items():
            # A store that is a mixture itself divides its weight, or its tokens, by its own.
            tokens = sum(store.num_tokens for store, _ in parts)
            share = (tokens if weight is None else weight) / sum(part for _, part in parts)
            splits.setdefault(split, []).extend((store, part * share) for store, part in parts)
    for split in ("train", "held_out"):
        if split not in splits:
            raise UserError(
                f"the stores {config.stores} have no split {split}: prepare one that has"
            )
    return {split: Mixture(*zip(*parts, strict=True)) for split, parts in splits.items()}


def _recall(config: DataConfig) -> dict[str, Documents]:
    difficulty = config.recall_facts, config.recall_values, config.recall_filler
    return {split: RecallDocuments(split, *difficulty) for split in SPLITS}


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
