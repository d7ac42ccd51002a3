"""Reads a token store: documents whose tokens are on disk."""

import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64, Integer

from block_recurrent.data.documents import fingerprint
from block_recurrent.data.extents import Extent
from block_recurrent.data.store_format import (
    read_metadata,
    read_shard_metadata,
    shard_files,
    shard_metadata,
    share_lost,
    token_type,
)
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.data.vocabulary_storage import open_vocabulary
from block_recurrent.errors import UserError, first_line
from block_recurrent.files.checksums import find_difference, sha256

COLUMNS = 3  # of .documents: tokens, bytes, words


class TokenStore:
    """One split of a store, as `Documents`.

    Tokens are read from the file at each call and are not kept. Memory use is 16 bytes per
    document, for any number of tokens. A memory map would crash the process if another program
    truncated the file; this class raises a `UserError`.

    Args:
      folder: folder of the store.
      split: name of the split: 'train', 'held_out', …
      metadata: content of store.json.

    Raises:
      UserError: a file is missing or has changed since it was written. Only the sizes of all files
        and the checksums of small files are checked; `verify` checks everything.
    """

    def __init__(self, folder: Path, split: str, metadata: Mapping[str, Any]):
        counts = metadata["splits"][split]
        self.vocabulary = open_vocabulary(metadata["vocabulary"], folder)
        self.num_tokens, self.num_bytes = counts["tokens"], counts["bytes"]
        self.num_words = counts["words"]
        self.num_characters = counts.get("characters")  # older stores lack it
        self.fingerprint = fingerprint([json.dumps(metadata, sort_keys=True), split])
        is_bytes = isinstance(self.vocabulary, ByteVocabulary)
        self.text_lost = 0.0 if is_bytes else share_lost(counts)  # older stores lack it
        self._type = token_type(self.vocabulary.size)
        self._shards = [shard_files(folder, split, shard) for shard in range(counts["shards"])]
        files = metadata["files"]
        lengths = [_read_lengths(folder, split, shard, files) for shard in range(counts["shards"])]
        # Sizes and modification times of the token files, to notice if one is modified later.
        self._versions = [_file_version(os.stat(tokens)) for tokens, _, _ in self._shards]
        offsets = [np.cumsum(numbers) - numbers for numbers in lengths]
        # The first document of each shard, and the offset of each document in its shard's tokens.
        self._first_documents = np.cumsum([0, *(len(numbers) for numbers in lengths[:-1])])
        self.lengths: Int64[np.ndarray, " documents"] = np.concatenate(lengths)
        self._offsets = np.concatenate(offsets)
        self._open_files: dict[int, int] = {}

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of all documents; the first access reads them."""
        lines = (line for _, _, path in self._shards for line in path.read_text().splitlines())
        return [json.loads(line) for line in lines]

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        stop = min(stop, int(self.lengths[document]))
        tokens = np.empty(max(stop - start, 0), self._type)
        shard = int(np.searchsorted(self._first_documents, document, side="right")) - 1
        byte_offset = (int(self._offsets[document]) + start) * self._type.itemsize
        path, _, _ = self._shards[shard]
        try:
            count = os.preadv(self._file(shard), [tokens], byte_offset)
        except OSError as error:
            raise _damaged(path, error.strerror) from error
        if count < tokens.nbytes:
            raise _damaged(path, "it was truncated after this run opened it")
        if _file_version(os.fstat(self._file(shard))) != self._versions[shard]:
            raise _damaged(path, "it was modified after this run opened it")
        return tokens

    def loss_weights(self, document: int, start: int, stop: int) -> Literal[1]:
        return 1

    def extents(self) -> list[Extent]:
        """All files of the split except its descriptions."""
        paths = [path for shard in self._shards for path in shard]
        sizes = [path.stat().st_size for path in paths]
        return [
            Extent(f"{path.parent.name}/{path.name}", path, 0, size)
            for path, size in zip(paths, sizes, strict=True)
        ]

    def _file(self, shard: int) -> int:
        """The descriptor of a shard's token file, which is opened at the first read."""
        if shard not in self._open_files:
            self._open_files[shard] = os.open(self._shards[shard][0], os.O_RDONLY)
        return self._open_files[shard]

    def __del__(self):
        for descriptor in getattr(self, "_open_files", {}).values():
            os.close(descriptor)


def open_stores(folder: str | Path) -> dict[str, list[tuple[TokenStore, float]]]:
    """Opens the stores in a folder: for each split, stores and weights. A mixture has several.

    Raises:
      UserError: the folder has no store, or the store is damaged.
    """
    found: dict[str, list[tuple[TokenStore, float]]] = {}
    try:
        for store, metadata, weight in _stores(Path(folder)):
            for split in metadata["splits"]:
                found.setdefault(split, []).append((TokenStore(store, split, metadata), weight))
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the metadata in {folder} does not describe a token store ({first_line(error)}): "
            "prepare the store again"
        ) from error
    return found


def verify(folder: str | Path) -> Iterator[str]:
    """Reads every byte of a store, and yields a line for each file that has changed.

    Raises:
      UserError: the folder has no store.
    """
    for store, metadata, _ in _stores(Path(folder)):
        for name, written in metadata["files"].items():
            if found := find_difference(store / Path(name).name, written):
                yield found
            elif name.endswith(".json"):  # the metadata of a shard, with checksums of its files
                files = read_shard_metadata(store / name)["files"]
                found = (
                    find_difference(store / Path(name).name, file) for name, file in files.items()
                )
                yield from filter(None, found)


def _stores(folder: Path) -> Iterator[tuple[Path, dict[str, Any], float]]:
    """Yields the folder, metadata and weight of each store in a folder."""
    metadata = read_metadata(folder)
    if "mixture" not in metadata:
        yield folder, metadata, 1.0
        return
    for name, weight in metadata["mixture"].items():
        yield folder / name, read_metadata(folder / name), weight


def _read_lengths(
    folder: Path, split: str, shard: int, files: Mapping[str, Any]
) -> Int64[np.ndarray, " documents"]:
    """The length of each document of a shard. Checks all sizes and the checksums of small files."""
    description = shard_metadata(folder, split, shard)
    metadata = read_shard_metadata(description)
    if sha256(description) != files[description.name]["sha256"]:
        raise _damaged(description, "it contains other bytes than were written")
    tokens, documents, names = shard_files(folder, split, shard)
    for path in (tokens, documents, names):
        written = metadata["files"][path.name]["bytes"]
        size = path.stat().st_size if path.is_file() else 0
        if size != written:
            raise _damaged(path, f"it has {size:,} bytes instead of {written:,}")
    if sha256(documents) != metadata["files"][documents.name]["sha256"]:
        raise _damaged(documents, "it contains other bytes than were written")
    table = np.fromfile(documents, "<i8").reshape(-1, COLUMNS)
    if (table < 0).any():
        raise _damaged(documents, "it contains a negative number")
    return np.ascontiguousarray(table[:, 0])


def _file_version(status: os.stat_result) -> tuple[int, int]:
    """Size and modification time, which change when a file is written to."""
    return status.st_size, status.st_mtime_ns


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"the token store is damaged: {path}: {reason}; restore it, or prepare the store again "
        "(python -m block_recurrent.prepare_data)"
    )
