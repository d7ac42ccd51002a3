"""The file format of a token store.

A store is a folder::

    store.json                metadata: format, task, vocabulary, counts and checksums; written last
    vocabulary.model          the SentencePiece model, if the tokens come from one,
    tokenizer.json            or the tokenizer
    train-00000.tokens        ids, little-endian: uint16, or uint32 if there are more than 65,536
    train-00000.documents     int64, little-endian, one row per document: tokens, bytes, words
    train-00000.names         one JSON string per document and line
    train-00000.json          counts and checksums of this shard

The store of a mixture is a folder of stores, with a store.json that contains their weights. A store
contains no paths, no code and no time stamps, so the same documents give the same bytes.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from block_recurrent.errors import UserError

FORMAT = 1
METADATA = "store.json"
VOCABULARY_FILES = {"sentencepiece": "vocabulary.model", "tokenizer": "tokenizer.json"}
# Names of splits, files and parts of a mixture. They cannot lead out of the store's folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


def token_type(vocab_size: int) -> np.dtype:
    """The type of the ids on disk."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def shard_files(folder: Path, split: str, shard: int) -> tuple[Path, Path, Path]:
    """The files with a shard's tokens, documents and names."""
    stem = f"{split}-{shard:05}"
    return folder / f"{stem}.tokens", folder / f"{stem}.documents", folder / f"{stem}.names"


def shard_metadata(folder: Path, split: str, shard: int) -> Path:
    """The file with a shard's counts and checksums, which is written when the shard is complete."""
    return folder / f"{split}-{shard:05}.json"


def share_lost(counts: Mapping[str, int]) -> float | None:
    """The share of a split's bytes that do not come back from its tokens; None if not counted."""
    compared = counts.get("compared_bytes")
    return counts["lost_bytes"] / compared if compared else None


def read_metadata(folder: Path) -> dict[str, Any]:
    """Reads store.json of a store or of a mixture.

    Raises:
      UserError: the file is missing, or this version cannot read it.
    """
    path = folder / METADATA
    if not path.is_file():
        raise UserError(
            f"no token store in {folder} (no {METADATA}): make one with python -m "
            f"block_recurrent.prepare_data --output={folder}, or set data.stores to another folder"
        )
    metadata = read_json(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {metadata.get('format')!r}, but this version reads format "
            f"{FORMAT}: prepare the store again"
        )
    for kind in ("splits", "mixture", "files"):
        _check_names(path, metadata.get(kind, {}))
    return metadata


def read_shard_metadata(path: Path) -> dict[str, Any]:
    """Reads a shard's counts and checksums. Raises UserError if the file does not have them."""
    metadata = read_json(path)
    _check_names(path, metadata.get("files"))
    return metadata


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError if the file does not contain one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): prepare the store again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object: prepare the store again")
    return content


def _check_names(path: Path, names: Any):
    if not isinstance(names, dict):
        raise UserError(f"{path} does not describe a token store: prepare the store again")
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"{path} contains the invalid name {name!r}: prepare the store again")
