"""A collection of documents, as tokens."""

import copy
import functools
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, Integer

from block_recurrent.data.extents import Extent
from block_recurrent.data.held_out import NamedSplits, Part, divide_named, part_name
from block_recurrent.data.vocabularies import ByteVocabulary, Vocabulary
from block_recurrent.errors import UserError

WHITE_SPACE = b" \t\n\v\f\r"
SPACES = bytes(byte in WHITE_SPACE for byte in range(256))
CHUNK_BYTES = 2**20  # read at once, since a whole document may not fit in memory


@runtime_checkable
class Documents(Protocol):
    """Documents by index, in a fixed order.

    Attributes:
      names: one per document, unique.
      lengths: tokens of each document, including its end token.
      num_tokens: sum of the lengths.
      num_bytes: bytes of all documents before tokenization.
      num_words: words of all documents, separated by white space.
      num_characters: UTF-8 characters of all documents; None if they have not been counted.
      text_lost: share of the bytes that the tokens do not keep; None if it has not been counted.
      vocabulary: of the tokens.
      fingerprint: a number that identifies this collection.
    """

    names: Sequence[str]
    lengths: Int64[np.ndarray, " documents"]
    num_tokens: int
    num_bytes: int
    num_words: int
    num_characters: int | None
    text_lost: float | None
    vocabulary: Vocabulary
    fingerprint: int

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        """Tokens start … stop − 1 of a document; fewer if the document ends before `stop`."""

    def loss_weights(
        self, document: int, start: int, stop: int
    ) -> Float32[np.ndarray, " length"] | Literal[1]:
        """Weights of these tokens in the loss: 1, or 0 for tokens that are not to be predicted."""


class ByteDocuments:
    """Documents whose tokens are their bytes, from memory or from files.

    A file is opened and closed for each read. That costs microseconds, and no memory or file handle
    is held in between. A memory map would crash the process if another program truncated the file;
    this class raises a `UserError`.

    Args:
      sources: name → contents, or name → path of the file with the contents.

    Raises:
      UserError: a file is missing, now or when it is read, or was truncated in between.

    Attributes:
      selection: how these documents were chosen from the corpus, for the user.
    """

    text_lost = 0.0

    def __init__(self, sources: Mapping[str, bytes | Path]):
        self.vocabulary, self.selection = ByteVocabulary(), "all documents"
        self.names = list(sources)
        self._sources = list(sources.values())
        self._sizes = np.array([_num_bytes(source) for source in self._sources], np.int64)
        self._starts = np.zeros_like(self._sizes)  # of a document in its source
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
        """Words and characters. The first access reads all documents."""
        counters = []
        for document, size in enumerate(self._sizes.tolist()):
            counters.append(TextCounter())
            for start in range(0, size, CHUNK_BYTES):
                counters[-1].add(self.read(document, start, start + CHUNK_BYTES))
        return sum(one.words for one in counters), sum(one.characters for one in counters)

    @functools.cached_property
    def fingerprint(self) -> int:
        sizes = zip(self.names, self._sizes.tolist(), strict=True)
        return fingerprint(f"{size} {name}" for name, size in sizes)

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        size = int(self._sizes[document])
        tokens = self.vocabulary.encode(self.read(document, start, stop))
        if start <= size < stop:
            tokens = np.append(tokens, np.uint16(self.vocabulary.end_id))
        return tokens

    def loss_weights(self, document: int, start: int, stop: int) -> Literal[1]:
        return 1

    def extents(self) -> list[Extent]:
        """The bytes of each document."""
        places = zip(self._sources, self._starts.tolist(), self._sizes.tolist(), strict=True)
        return [Extent(name, *place) for name, place in zip(self.names, places, strict=True)]

    def raw(self, document: int) -> bytes:
        """All bytes of a document."""
        return self.read(document, 0, int(self._sizes[document]))

    def parts(self, parts: Sequence[Part]) -> "ByteDocuments":
        """Documents and parts of documents, in this order."""
        chosen = copy.copy(self)  # the constructor would ask the file system for all sizes again
        indices, starts, stops = np.array(parts, np.int64).reshape(-1, 3).T
        chosen.names = [
            part_name(self.names[index], int(self._sizes[index]), start, stop)
            for index, start, stop in parts
        ]
        chosen._sources = [self._sources[index] for index in indices]
        chosen._starts, chosen._sizes = self._starts[indices] + starts, stops - starts
        chosen.lengths = chosen._sizes + 1
        for cached in ("_text_counts", "fingerprint"):
            chosen.__dict__.pop(cached, None)
        return chosen

    def select(self, indices: Sequence[int] | np.ndarray) -> "ByteDocuments":
        """The documents at `indices`, in that order."""
        return self.parts([Part(int(i), 0, int(self._sizes[i])) for i in indices])

    def read(self, document: int, start: int, stop: int) -> bytes:
        """Bytes `start` … `stop` − 1 of a document; fewer if the document ends before `stop`."""
        source, first = self._sources[document], int(self._starts[document])
        count = max(min(stop, int(self._sizes[document])) - start, 0)
        if isinstance(source, bytes):
            return source[first + start : first + start + count]
        try:
            with open(source, "rb") as file:
                file.seek(first + start)
                data = file.read(count)
        except OSError as error:
            raise _unreadable(source, error) from error
        if len(data) < count:
            raise UserError(
                f"{source} is shorter than the {first + self._sizes[document]} bytes that it had "
                "at the start: restore it, or start a new run with the current files"
            )
        return data


class TextCounter:
    """Counts the words and characters of a text that is given in chunks of bytes.

    Words are runs of bytes without white space, as in ``len(text.split())`` and `wc -w`. Characters
    are UTF-8 characters, counted by their first bytes. The text does not have to be valid UTF-8.

    Attributes:
      words: number of words that have started.
      characters: number of characters that have started.
    """

    def __init__(self):
        self.words = self.characters = 0
        self._after_space = True

    def add(self, text: bytes):
        """Adds the next chunk. A word or character may continue from the chunk before."""
        if text:
            self.words += len(word_starts(text, self._after_space))
            self.characters += count_characters(text)
            self._after_space = text[-1:] in WHITE_SPACE


def word_starts(
    text: bytes, after_space: bool, document_starts: Sequence[int] | np.ndarray = ()
) -> Int64[np.ndarray, " words"]:
    """Where words begin in a text that is not empty.

    Args:
      text: in any encoding that contains ASCII.
      after_space: whether white space, or nothing, comes before the text.
      document_starts: where documents begin in the text, before which nothing comes.
    """
    is_space = np.frombuffer(text.translate(SPACES), np.bool_)
    space_before = np.empty_like(is_space)
    space_before[0], space_before[1:] = after_space, is_space[:-1]
    space_before[np.asarray(document_starts, np.int64)] = True
    return np.flatnonzero(space_before > is_space)


def count_characters(text: bytes) -> int:
    """The UTF-8 characters that begin in a text."""
    if text.isascii():
        return len(text)
    continues = np.frombuffer(text, np.uint8) & 0xC0 == 0x80  # 0b10…: a later byte of a character
    return len(text) - int(np.count_nonzero(continues))


def divide_documents(
    documents: ByteDocuments, named: NamedSplits, per_mille: int
) -> dict[str, ByteDocuments]:
    """Divides into "train" and "held_out", and "test" if there is one; see `divide_named`."""
    names, sizes = documents.names, documents.lengths - 1
    division = divide_named(names, sizes, named, per_mille, documents.read)
    splits = {split: documents.parts(parts) for split, parts in division.parts.items()}
    for part in splits.values():
        part.selection = division.reason
    return splits


def fingerprint(parts: Iterable[str]) -> int:
    """A 63-bit hash of all parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\n")
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def _num_bytes(source: bytes | Path) -> int:
    if isinstance(source, bytes):
        return len(source)
    try:
        return os.stat(source).st_size
    except OSError as error:
        raise _unreadable(source, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read {path} ({error.strerror}): restore it, or start a new run with the current "
        "files"
    )
