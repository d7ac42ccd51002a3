"""Loads the corpus that a configuration names, as documents of tokens."""

from collections.abc import Mapping

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.documents import Documents
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.loaded_text import load_text
from block_recurrent.data.mixture import Mixture
from block_recurrent.data.recall import SPLITS, RecallDocuments
from block_recurrent.data.store import open_stores
from block_recurrent.data.survey import Survey, survey
from block_recurrent.data.text_files import load_standard_library
from block_recurrent.errors import UserError


def load_documents(config: DataConfig) -> dict[str, Documents]:
    """The documents of each split: "train", "held_out", and others such as "test".

    Opens no document yet, except those of text_files that must be unpacked.

    Raises:
      UserError: the corpus is missing or damaged, or has another vocabulary than the model.
    """
    loaders = {
        "standard_library": _standard_library,
        "text_files": _text_files,
        "store": _token_stores,
        "recall": _recall,
    }
    documents = loaders[config.corpus](config)
    found = documents["train"].vocabulary.name
    if config.vocabulary not in (None, found):
        raise UserError(
            f"the corpus has the vocabulary {found}, but the model was trained with "
            f"{config.vocabulary}: use the model's corpus, or one prepared with its vocabulary"
        )
    return documents


def survey_corpus(
    config: DataConfig, splits: Mapping[str, Documents], window_length: int | None
) -> Survey:
    """Surveys the documents of a corpus; see `survey`."""
    files = Corpus(config).files if config.corpus == "text_files" else ()
    return survey(splits, window_length, files)


def _standard_library(config: DataConfig) -> dict[str, Documents]:
    if config.path is not None:
        raise UserError(
            f"data.path = '{config.path}' has no effect on data.corpus = 'standard_library': set "
            "data.corpus = 'text_files', or remove data.path"
        )
    if config.held_out:
        raise UserError(
            f"data.held_out = {config.held_out!r} has no effect on data.corpus = "
            "'standard_library': remove it, or set data.held_out_per_mille"
        )
    return load_standard_library(config.held_out_per_mille)


def _text_files(config: DataConfig) -> dict[str, Documents]:
    if config.path is None:
        raise UserError("data.corpus = 'text_files' needs a file or folder: set data.path")
    return load_text(config)


def _token_stores(config: DataConfig) -> dict[str, Documents]:
    if not config.stores:
        raise UserError("data.corpus = 'store' needs token stores: set data.stores = ('my/store',)")
    weights = config.weights or (None,) * len(config.stores)
    if len(weights) != len(config.stores):
        raise UserError(
            f"data.weights = {config.weights} has {len(weights)} numbers for {len(config.stores)} "
            "stores: give one per store, or () to weight each store by its size"
        )
    splits: dict[str, list] = {}
    for folder, weight in zip(config.stores, weights, strict=True):
        for split, parts in open_stores(folder).items():
            # If the store is itself a mixture, its weight (or its size) is shared among its parts.
            tokens = sum(store.num_tokens for store, _ in parts)
            share = (tokens if weight is None else weight) / sum(part for _, part in parts)
            splits.setdefault(split, []).extend((store, part * share) for store, part in parts)
    for split in ("train", "held_out"):
        if split not in splits:
            raise UserError(
                f"the stores {config.stores} have no split {split}: add a store that has one"
            )
    return {split: Mixture(*zip(*parts, strict=True)) for split, parts in splits.items()}


def _recall(config: DataConfig) -> dict[str, Documents]:
    difficulty = config.recall_facts, config.recall_values, config.recall_filler
    return {split: RecallDocuments(split, *difficulty) for split in SPLITS}
