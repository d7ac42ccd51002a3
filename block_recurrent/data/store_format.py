"""The files of a token store.

A store is a folder::

    store.json                metadata: format, task, vocabulary, counts and checksums; written last
    vocabulary.model          the SentencePiece model, where that made the tokens
    train-00000.tokens        ids, little-endian, uint16 or, from 65,537 ids on, uint32
    train-00000.documents     int64, little-endian, a row a document: tokens, bytes, words
    train-00000.names         a JSON string a line, one a document
    train-00000.json          counts and checksums of this shard

or, for a mixture, a folder of stores and a store.json with their weights. It holds no paths, no
code and no time stamps: the same documents make the same bytes.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from block_recurrent.errors import UserError

FORMAT = 1
METADATA = "store.json"
VOCABULARY_MODEL = "vocabulary.model"
# Of splits, of the parts of a mixture and of files: none leads out of the folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")


def token_type(vocab_size: int) -> np.dtype:
    """The type of the ids on disk."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def shard_files(folder: Path, split: str, shard: int) -> tuple[Path, Path, Path]:
    """Tokens, documents and names of a shard."""
    stem = f"{split}-{shard:05}"
    return folder / f"{stem}.tokens", folder / f"{stem}.documents", folder / f"{stem}.names"


def shard_metadata(folder: Path, split: str, shard: int) -> Path:
    """Counts and checksums of a shard, there once the shard is whole."""
    return folder / f"{split}-{shard:05}.json"


def read_metadata(folder: Path) -> dict[str, Any]:
    """store.json of a store or of a mixture.

    Raises:
      UserError: there is none, or one that this version cannot read.
    """
    path = folder / METADATA
    if not path.is_file():
        raise UserError(
            f"no token store in {folder} (no {METADATA}): make one with python -m "
            f"block_recurrent.prepare_data --output={folder}, or name another by data.stores"
        )
    metadata = read_json(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {metadata.get('format')!r}, and this version reads {FORMAT}: "
            "prepare the store again"
        )
    for kind in ("splits", "mixture", "files"):
        _check_names(path, metadata.get(kind, {}))
    return metadata


def read_shard_metadata(path: Path) -> dict[str, Any]:
    """The description of a shard. Raises UserError where it is none."""
    metadata = read_json(path)
    _check_names(path, metadata.get("files"))
    return metadata


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError where the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): prepare the store again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: prepare the store again")
    return content


def _check_names(path: Path, names: Any):
    if not isinstance(names, dict):
        raise UserError(f"{path} does not describe a token store: prepare the store again")
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"{path} holds the name {name!r}: prepare the store again")
