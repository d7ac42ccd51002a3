"""A collection of documents, as tokens, and its division into train and held-out."""

import copy
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, Integer

from block_recurrent.data.vocabularies import END, ByteVocabulary, Vocabulary
from block_recurrent.errors import UserError

PIECE = 2**20  # bytes read at a time, where a whole document may be too many


@runtime_checkable
class Documents(Protocol):
    """Documents by index, in a fixed order.

    Attributes:
      names: one a document, unique.
      lengths: tokens a document, its end included.
      num_tokens: sum of the lengths.
      num_bytes: bytes of all documents before they became tokens.
      num_words: words of all documents, as white space parts them.
      num_characters: characters of all documents, as UTF-8 has them; None where nobody has counted.
      vocabulary: what the tokens mean.
      fingerprint: a number that another collection would not have.
    """

    names: Sequence[str]
    lengths: Int64[np.ndarray, " documents"]
    num_tokens: int
    num_bytes: int
    num_words: int
    num_characters: int | None
    vocabulary: Vocabulary
    fingerprint: int

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        """Tokens start … stop − 1 of one document, or those of them that there are."""

    def loss_weights(
        self, document: int, start: int, stop: int
    ) -> Float32[np.ndarray, " length"] | Literal[1]:
        """Of the same tokens in the loss: 1, or 0 where nothing is asked."""


class ByteDocuments:
    """Documents whose tokens are their bytes: contents in memory, or files read piece by piece.

    A file is opened for every read and never kept: that costs microseconds, holds no memory and no
    handles, and, unlike a memory map, survives a file that another program cuts short.

    Args:
      sources: name → contents, or the path of the file that holds them.

    Raises:
      UserError: a file is missing, here or later, or has become shorter since.
    """

    def __init__(self, sources: Mapping[str, bytes | Path]):
        self.vocabulary = ByteVocabulary()
        self.names = list(sources)
        self._sources = list(sources.values())
        self._sizes = np.array([_num_bytes(source) for source in self._sources], np.int64)
        self.lengths = self._sizes + 1

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_bytes(self) -> int:
        return int(self._sizes.sum())

    @property
    def num_words(self) -> int:
        return self._text_counts[0]

    @property
    def num_characters(self) -> int:
        return self._text_counts[1]

    @functools.cached_property
    def _text_counts(self) -> tuple[int, int]:
        """Words and characters; all the documents are read the first time that somebody asks."""
        counters = []
        for document, size in enumerate(self._sizes.tolist()):
            counters.append(TextCounter())
            for start in range(0, size, PIECE):
                counters[-1].add(self._read(document, start, min(start + PIECE, size)))
        return sum(one.words for one in counters), sum(one.characters for one in counters)

    @functools.cached_property
    def fingerprint(self) -> int:
        sizes = zip(self.names, self._sizes.tolist(), strict=True)
        return fingerprint(f"{size} {name}" for name, size in sizes)

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        size = int(self._sizes[document])
        tokens = self.vocabulary.encode(self._read(document, start, min(stop, size)))
        if start <= size < stop:
            tokens = np.append(tokens, np.uint16(END))
        return tokens

    def loss_weights(self, document: int, start: int, stop: int) -> Literal[1]:
        return 1

    def raw(self, document: int) -> bytes:
        """One document whole, as bytes."""
        return self._read(document, 0, int(self._sizes[document]))

    def select(self, indices: Sequence[int] | np.ndarray) -> "ByteDocuments":
        """The documents at `indices`, in that order."""
        chosen = copy.copy(self)  # not a new one, which would ask the file system for sizes again
        chosen.names = [self.names[i] for i in indices]
        chosen._sources = [self._sources[i] for i in indices]
        chosen._sizes, chosen.lengths = self._sizes[indices], self.lengths[indices]
        for cached in ("_text_counts", "fingerprint"):
            chosen.__dict__.pop(cached, None)
        return chosen

    def _read(self, document: int, start: int, stop: int) -> bytes:
        source = self._sources[document]
        if isinstance(source, bytes):
            return source[start:stop]
        try:
            with open(source, "rb") as file:
                file.seek(start)
                data = file.read(max(stop - start, 0))
        except OSError as error:
            raise _unreadable(source, error) from error
        if len(data) < stop - start:
            raise UserError(
                f"{source} has become shorter than the {self._sizes[document]} bytes it had at "
                "the start: restore it, or start a new run on the files as they are now"
            )
        return data


class TextCounter:
    """Counts the words and characters of a text that comes in pieces.

    Words are runs of bytes that are no white space: ``len(text.split())`` of Python's bytes, what
    `wc -w` counts. Characters are those of UTF-8, each counted by its first byte; so a text need
    not be decoded, nor be valid UTF-8.

    Attributes:
      words: begun so far.
      characters: begun so far.
    """

    def __init__(self):
        self.words = self.characters = 0
        self._after_space = True

    def add(self, text: bytes):
        """The next piece; a word or character may run on from the piece before."""
        if not text:
            return
        codes = np.frombuffer(text, np.uint8)
        space = (codes == ord(" ")) | (codes - ord("\t") < 5)  # one of \t \n \v \f \r
        begins = np.count_nonzero(space[:-1] > space[1:])
        self.words += int(begins) + bool(self._after_space and not space[0])
        self.characters += int(np.count_nonzero(codes & 0xC0 != 0x80))  # 10…: goes on with one
        self._after_space = bool(space[-1])


def fingerprint(parts: Iterable[str]) -> int:
    """63 bits that depend on every part."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\n")
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def is_held_out(name: str, per_mille: int) -> bool:
    """Whether the document is kept from training: decided by its name alone, on every machine."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") * 1000 < per_mille * 2**64


def split_held_out(documents: ByteDocuments, per_mille: int) -> dict[str, ByteDocuments]:
    """Splits two or more documents into "train" and "held_out"; see `choose_held_out`."""
    held_out = choose_held_out(documents.names, documents.lengths, per_mille)
    return {
        "train": documents.select(np.flatnonzero(~held_out)),
        "held_out": documents.select(np.flatnonzero(held_out)),
    }


def choose_held_out(
    names: Sequence[str], sizes: Sequence[int] | np.ndarray, per_mille: int
) -> Bool[np.ndarray, " documents"]:
    """Which of two or more documents are held out: some, and not all.

    Where the names leave nothing held out, as is likely below some 1000 / per_mille documents, the
    document of median size is (not the smallest, often a mere README, nor the largest, worth most
    in training); where they leave nothing for training, the largest is trained on.
    """
    if not 1 <= per_mille <= 999:
        raise UserError(f"data.held_out_per_mille = {per_mille}: choose from 1 to 999")
    held_out = np.array([is_held_out(name, per_mille) for name in names])
    by_size = np.argsort(sizes, kind="stable")
    if not held_out.any():
        held_out[by_size[(len(by_size) - 1) // 2]] = True
    if held_out.all():
        held_out[by_size[-1]] = False
    return held_out


def _num_bytes(source: bytes | Path) -> int:
    if isinstance(source, bytes):
        return len(source)
    try:
        return os.stat(source).st_size
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {path} ({error.strerror}): restore it, or start a new run on the files "
        "as they are now"
    )
