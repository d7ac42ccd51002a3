"""Looks into the documents of a corpus for what should not be trained on."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from block_recurrent.data.content import recognise
from block_recurrent.data.documents import CHUNK_BYTES, ByteDocuments
from block_recurrent.data.encodings import guess_encoding
from block_recurrent.data.formats.source_files import SourceFile
from block_recurrent.data.held_out import document_name

READ_BYTES = 2**26  # read of the whole corpus, to see what it contains
HEAD_BYTES = 4096  # least that is read of a document
COMPARED_BYTES = 2**28  # read to find equal documents
FILE_BYTES = 2**14  # read in the time that it takes to open a file
EXAMPLES = 3


class Finding(NamedTuple):
    """Documents with the same problem.

    Attributes:
      problem: what they are, such as "gzip".
      advice: what to do.
      names: the documents.
    """

    problem: str
    advice: str
    names: list[str]

    def __str__(self):
        names = shorten(self.names, EXAMPLES)
        return f"{count(len(self.names))}: {self.problem} ({names}): {self.advice}"


class Contents:
    """What the beginnings of documents contain; of many documents, an evenly spread sample.

    Reads `READ_BYTES` at most.

    Attributes:
      binary: documents that are no text, by format.
      encodings: documents in other encodings, or with invalid UTF-8.
      extent: how much was read, for the user.
    """

    def __init__(self, splits: Mapping[str, ByteDocuments]):
        first = {}  # the first part of each document
        for documents in splits.values():
            for index, name in enumerate(documents.names):
                first.setdefault(document_name(name), (documents, index))
        everything = list(first.values())
        step = max(1, -(-len(everything) * HEAD_BYTES // READ_BYTES))
        sample = everything[::step]
        limit = max(HEAD_BYTES, READ_BYTES // max(len(sample), 1))
        found: dict[tuple[str, str], list[str]] = defaultdict(list)
        guesses: dict[str | None, None] = {}
        read = 0
        for documents, index in sample:
            size = int(documents.lengths[index]) - 1
            head = documents.read(index, 0, limit)
            content = recognise(head, complete=len(head) == size)
            names = found[content]
            names.append(document_name(documents.names[index]))
            if content.kind == "invalid" and len(names) <= EXAMPLES:
                guesses[guess_encoding(head[: 2**16])] = None
            read += len(head)
        total = sum(each.num_bytes for each in splits.values())
        self.extent = (
            f"looked at {megabytes(read)} of {megabytes(total)}, in {len(sample):,} of "
            f"{len(everything):,} documents"
        )
        self.binary = [
            Finding(name, "their bytes are no text", names)
            for (kind, name), names in found.items()
            if kind == "binary"
        ]
        self.encodings = [
            Finding(name, _encoding_advice(kind, name, guesses), names)
            for (kind, name), names in found.items()
            if kind in ("encoded", "invalid")
        ]


def equal_documents(splits: Mapping[str, ByteDocuments]) -> Iterator[Finding]:
    """Documents of other splits that are also trained on, whole or without their end."""
    copies = TrainingCopies(splits["train"])
    for split in (name for name in splits if name != "train"):
        documents, equal, skipped = splits[split], [], []
        for index, name in enumerate(documents.names):
            try:
                if copy := copies.of(documents, index):
                    equal.append(f"{name} = {copy}")
            except TooMuchToReadError:
                skipped.append(name)
        if equal:
            advice = "their score shows what the model remembers; leave out copies by data.glob"
            yield Finding(f"in {split} and equal to documents in train", advice, equal)
        if skipped:
            problem = f"in {split} and of the same sizes as documents in train"
            yield Finding(problem, "not compared, because that would take too long", skipped)


class TooMuchToReadError(Exception):
    """A comparison would take too long."""


class TrainingCopies:
    """Finds documents in training that are equal to another document, or to its beginning.

    Only documents of the same size are read, and those whose end is held out: `COMPARED_BYTES` in
    all, where a document counts as at least `FILE_BYTES`.
    """

    def __init__(self, train: ByteDocuments):
        self.train, self.room = train, COMPARED_BYTES
        self.cut = [i for i, name in enumerate(train.names) if name != document_name(name)]
        self.indices: dict[int, list[int]] = defaultdict(list)  # by length
        for index, length in enumerate(train.lengths.tolist()):
            self.indices[length].append(index)
        self.digests: dict[int, dict[bytes, int]] = {}  # by length, digest → index

    def of(self, documents: ByteDocuments, index: int) -> str | None:
        """The name of an equal document in training; None if there is none.

        Raises:
          TooMuchToReadError: the documents of the same size are too many or too long.
        """
        length = int(documents.lengths[index])
        begin = documents.read(index, 0, HEAD_BYTES) if self.cut else b""
        for other in self.cut:
            if self.train.lengths[other] < length and begin.startswith(
                self.train.read(other, 0, len(begin))
            ):
                self._take(1, int(self.train.lengths[other]))
                if _digest(documents, index, int(self.train.lengths[other]) - 1) == _digest(
                    self.train, other
                ):
                    return self.train.names[other]
        if length not in self.indices:
            return None
        if length not in self.digests:
            self._take(len(self.indices[length]), length)
            found = {_digest(self.train, other): other for other in self.indices[length]}
            self.digests[length] = found
        self._take(1, length)
        other = self.digests[length].get(_digest(documents, index))
        return None if other is None else self.train.names[other]

    def _take(self, documents: int, length: int):
        cost = documents * max(length, FILE_BYTES)
        if cost > self.room:
            raise TooMuchToReadError
        self.room -= cost


def leaving_links(files: Iterable[SourceFile]) -> Iterator[Finding]:
    """Files of a folder that are links to a place outside of it.

    In the cache of the Hugging Face hub, all files are links to the cache's own blobs.
    """
    leaving = [
        file.name
        for file in files
        if not file.name.startswith("../") and os.path.islink(file.path) and _leaves(file)
    ]
    if leaving:
        yield Finding(
            "links to files elsewhere", "leave them out by data.glob if unwanted", leaving
        )


def _leaves(file: SourceFile) -> bool:
    """Whether a link leads out of the folder of the corpus, and is none of the hub's cache."""
    target = Path(file.path).resolve()
    folder = Path(file.path).parents[file.name.count("/")].resolve()
    snapshots = target.parent.with_name("snapshots")
    in_cache = target.parent.name == "blobs" and folder.is_relative_to(snapshots)
    return not in_cache and not target.is_relative_to(folder)


def count(documents: int) -> str:
    """Such as "1 document" or "1,000 documents"."""
    return f"{documents:,} document{'' if documents == 1 else 's'}"


def shorten(items: Sequence[str], shown: int) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - shown:,} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def megabytes(size: int) -> str:
    """Formats bytes, such as "12.34 MB" or "44 bytes"."""
    return f"{size / 1e6:,.2f} MB" if size >= 10_000 else f"{size:,} bytes"


def _encoding_advice(kind: str, name: str, guesses: Mapping[str | None, None]) -> str:
    if kind == "encoded":
        return f"set data.encoding = '{name.lower()}', or leave them out by data.glob"
    known = " or ".join(repr(guess) for guess in guesses if guess)
    looks = f"they look like {known}: " if known else ""
    return (
        f"{looks}set data.encoding to their encoding or to 'detect', or train on them as they are"
    )


def _digest(documents: ByteDocuments, index: int, size: int | None = None) -> bytes:
    """The hash of a document, or of its first bytes."""
    size = int(documents.lengths[index]) - 1 if size is None else size
    digest = hashlib.sha256()
    for start in range(0, size, CHUNK_BYTES):
        digest.update(documents.read(index, start, min(start + CHUNK_BYTES, size)))
    return digest.digest()
