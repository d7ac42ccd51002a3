"""Divides documents that may be too many for memory, with the result that `divide` has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.formats.rows import Document
from block_recurrent.data.held_out import (
    ENOUGH,
    NamedSplits,
    divide_named,
    is_held_out,
    part_name,
)
from block_recurrent.data.loaded_text import equal_names
from block_recurrent.data.split_names import Split
from block_recurrent.data.text_files import check_not_empty

TRAINED = (None, "train")


class SplitPart(NamedTuple):
    """A document, or a part of one, in a split.

    Attributes:
      split: the split.
      name: of the part.
      size: its bytes; None: all that are left.
    """

    split: Split
    name: str
    size: int | None


class StreamedDivision:
    """What each split of a corpus contains. Reads no more than is needed to know that.

    If there is enough held-out text, documents are divided whole, as the paths of their files and
    the hashes of their names say. If there is less, they are few: all are read, and divided by
    `divide_named`.

    Attributes:
      reason: how "held_out" was chosen, for the user.
      few: the parts of each document with text, by name, if documents are few; else None.

    Raises:
      UserError: see `divide`.
    """

    def __init__(self, corpus: Corpus):
        self._per_mille = corpus.data.held_out_per_mille
        self._by_hash = "held_out" not in corpus.splits.values()
        self.reason, self.few = corpus.named.reason, None
        if self._by_hash and _is_enough_by_hash(corpus):
            self.reason = "by a hash of their names"
        elif self._by_hash or not _is_enough_by_path(corpus):
            self.reason, self.few = _divide(corpus)

    def parts(self, document: Document) -> Sequence[SplitPart]:
        """The parts of a document, in order; a document without text is in "train"."""
        name, split = document.name, document.split
        if self.few is not None:
            return self.few.get(name) or [SplitPart("train", name, None)]
        if split in TRAINED:
            held_out = self._by_hash and is_held_out(name, self._per_mille)
            split = "held_out" if held_out else "train"
        return [SplitPart(split, name, None)]


def take_parts(
    document: Document, parts: Sequence[SplitPart]
) -> Iterator[tuple[SplitPart, Iterator[bytes]]]:
    """The parts of a document with their pieces. Each must be read before the next one."""
    pieces, rest = iter(document.pieces), b""

    def take(size: int | None) -> Iterator[bytes]:
        nonlocal rest
        while size is None or size > 0:
            piece = rest or next(pieces, None)
            if piece is None:
                return
            rest = b"" if size is None else piece[size:]
            piece = piece if size is None else piece[:size]
            size = None if size is None else size - len(piece)
            yield piece

    for part in parts:
        yield part, take(part.size)


def _is_enough_by_path(corpus: Corpus) -> bool:
    """Whether there is text to hold out, and text to train on, in files whose paths say so."""
    held_out = corpus.reordered(lambda split: split == "held_out")
    return any(d.split == "held_out" and any(d.pieces) for d in held_out.rows()) and any(
        d.split in TRAINED and any(d.pieces)
        for d in corpus.reordered(lambda split: split in TRAINED).rows()
    )


def _is_enough_by_hash(corpus: Corpus) -> bool:
    """Whether the hash of their names holds out enough documents, and leaves one to train on."""
    held_out = trained = 0
    for document in corpus.rows():
        if document.split in TRAINED:
            size = sum(map(len, document.pieces))
            chosen = is_held_out(document.name, corpus.data.held_out_per_mille)
            held_out, trained = held_out + size * chosen, trained + size * (not chosen)
            if trained and held_out >= ENOUGH:
                return True
    return False


def _divide(corpus: Corpus) -> tuple[str, Mapping[str, Sequence[SplitPart]]]:
    """How few documents were divided, and the parts of each, by name."""
    sizes: dict[str, int] = {}
    splits = []
    for document in corpus.documents():
        if size := sum(map(len, document.pieces)):
            if document.name in sizes:
                raise equal_names(document.name)
            sizes[document.name] = size
            splits.append(document.split)
    check_not_empty(list(sizes), corpus.data.path, corpus.data.glob)
    names, lengths = list(sizes), list(sizes.values())
    read = _ForwardReader(corpus, names).read
    named = NamedSplits(splits, corpus.named.reason)
    division = divide_named(names, lengths, named, corpus.data.held_out_per_mille, read)
    found = sorted(
        (document, start, stop, split)
        for split, parts in division.parts.items()
        for document, start, stop in parts
    )
    few: dict[str, list[SplitPart]] = {}
    for document, start, stop, split in found:
        name = part_name(names[document], lengths[document], start, stop)
        few.setdefault(names[document], []).append(SplitPart(split, name, stop - start))
    return division.reason, few


class _ForwardReader:
    """Reads places of documents in the order in which they come."""

    def __init__(self, corpus: Corpus, names: Sequence[str]):
        self._documents, self._names = corpus.documents(), names

    def read(self, index: int, start: int, stop: int) -> bytes:
        """Bytes `start` … `stop` − 1 of the document with this index, later than the one before."""
        document = next(each for each in self._documents if each.name == self._names[index])
        text, position = bytearray(), 0
        for piece in document.pieces:
            text += piece[max(start - position, 0) : max(stop - position, 0)]
            position += len(piece)
        return bytes(text)
