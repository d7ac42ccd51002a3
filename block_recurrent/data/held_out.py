"""Decides which documents are trained on and which are held out, from names and sizes alone.

The choice stays when documents are added, as far as that is possible: nothing that was trained on
is ever held out later.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

from block_recurrent.data.split_names import Split, recognised_splits
from block_recurrent.errors import UserError

ENOUGH = 8192  # bytes of held-out text below which its loss says little
SHORT = 1024  # bytes below which a document is not cut
FEW_PER_MILLE = 100  # share to hold out of a small corpus
CHOSEN = "as data.held_out says"
RANGE = re.compile(r"\[\d+:\d+\]$")  # of a part, in its name

MOST_SEARCHED = 2**20  # bytes that are searched for the end of a line
Read = Callable[[int, int, int], bytes]  # bytes start … stop − 1 of a document


class Part(NamedTuple):
    """Bytes `start` … `stop` − 1 of the document with an index."""

    document: int
    start: int
    stop: int


class NamedSplits(NamedTuple):
    """The splits that documents belong to by their paths.

    Attributes:
      splits: one per document; None: its path does not say.
      reason: how "held_out" was chosen, for the user.
    """

    splits: Sequence[Split | None]
    reason: str


class Division(NamedTuple):
    """What each split contains.

    Attributes:
      parts: for "train" and "held_out", and for "test" if the corpus has a test split, the
        documents or parts of documents, in the order of the documents.
      reason: why, for the user.
    """

    parts: dict[str, list[Part]]
    reason: str


def divide(
    names: Sequence[str],
    sizes: Sequence[int] | np.ndarray,
    per_mille: int,
    read: Read,
    chosen: Collection[int] | None = None,
) -> Division:
    """Divides a corpus into splits, each of them not empty.

    Args:
      names: of the documents, which are paths with '/' separators.
      sizes: bytes of the documents, none of them 0.
      per_mille: share of the documents to hold out, if neither `chosen` nor names say which.
      read: reads bytes of a document, to cut it at the end of a line.
      chosen: indices of the documents to hold out; None: as `recognised_splits` says, or else by
        `divide_by_hash`. Documents of a test split are in neither "train" nor "held_out".

    Raises:
      UserError: nothing is left to train on or to hold out, or the only document has a single byte.
    """
    return divide_named(names, sizes, named_splits(names, sizes, chosen), per_mille, read)


def named_splits(
    paths: Sequence[str], sizes: Sequence[int] | np.ndarray, chosen: Collection[int] | None
) -> NamedSplits:
    """The splits that paths belong to; see `divide` for the arguments."""
    splits = recognised_splits(paths, sizes)
    if chosen is None:
        return NamedSplits(splits, "as their names say")
    splits = [
        "held_out" if i in chosen else "test" if split == "test" else "train"
        for i, split in enumerate(splits)
    ]
    return NamedSplits(splits, CHOSEN)


def divide_named(
    names: Sequence[str],
    sizes: Sequence[int] | np.ndarray,
    named: NamedSplits,
    per_mille: int,
    read: Read,
) -> Division:
    """Divides a corpus whose documents are in files whose paths may name splits; see `divide`."""
    splits, reason = named
    whole = {split: [] for split in ("train", "held_out", "test")}
    for index, (split, size) in enumerate(zip(splits, sizes, strict=True)):
        whole[split or "train"].append(Part(index, 0, int(size)))
    if not whole["train"]:
        raise UserError(
            "every document is held out or belongs to a test split, so that none is left to train "
            "on: set data.held_out, data.glob or data.path to others"
        )
    if not whole["held_out"] and reason == CHOSEN:
        raise UserError("every file that data.held_out names is empty: set it to others")
    if not whole["held_out"]:
        whole["train"], whole["held_out"], reason = divide_by_hash(
            names, whole["train"], per_mille, read
        )
    return Division({split: parts for split, parts in whole.items() if parts}, reason)


def divide_by_hash(
    names: Sequence[str], documents: Sequence[Part], per_mille: int, read: Read
) -> tuple[list[Part], list[Part], str]:
    """Divides whole documents into training and held-out parts by a hash of their names.

    Documents are held out whole, see `is_held_out`. If they have less than `ENOUGH` bytes together,
    as in a corpus of few documents, the end of every other document is held out too, and of those
    with less than `SHORT` bytes a larger share. All this depends on a document's name and size
    alone, so adding documents can only end the cutting, and nothing that was trained on becomes
    held out.

    Returns:
      The parts to train on, the parts to hold out, and why, for the user.

    Raises:
      UserError: `per_mille` is out of range, or the only document has a single byte.
    """
    if not 1 <= per_mille <= 999:
        raise UserError(f"data.held_out_per_mille = {per_mille}: choose from 1 to 999")
    held_out = {one for one in documents if is_held_out(names[one.document], per_mille)}
    ends: dict[Part, int] = {}
    reason = "by a hash of their names"
    if len(documents) == 1:
        held_out, ends = set(), {documents[0]: _cut(documents[0], per_mille, read)}
        reason = "the end of the only document"
    elif sum(one.stop for one in held_out) < ENOUGH:
        share = max(per_mille, FEW_PER_MILLE)
        short = (one for one in documents if one.stop < SHORT)
        held_out |= {one for one in short if is_held_out(names[one.document], share)}
        ends = {
            one: _cut(one, per_mille, read)
            for one in documents
            if one.stop >= SHORT and one not in held_out
        }
        if ends:
            reason = "by a hash of their names, and, as that is little text, the ends of others"
    if not held_out and not ends:
        held_out = {min(documents, key=lambda one: _hash(names[one.document]))}
    if len(held_out) == len(documents):
        held_out.remove(max(reversed(documents), key=lambda one: one.stop))
    train, rest = [], []
    for one in documents:
        cut = ends.get(one, 0 if one in held_out else one.stop)
        train += [Part(one.document, 0, cut)] if cut else []
        rest += [Part(one.document, cut, one.stop)] if cut < one.stop else []
    return train, rest, reason


def is_held_out(name: str, per_mille: int) -> bool:
    """Whether a document is held out. This depends only on its name, so all machines agree."""
    return _hash(name) * 1000 < per_mille * 2**64


def part_name(name: str, size: int, start: int, stop: int) -> str:
    """The name of a part of a document; that of the document if it is all of it."""
    return name if (start, stop) == (0, size) else f"{name}[{start}:{stop}]"


def document_name(name: str) -> str:
    """The name of the document that a part belongs to; see `part_name`."""
    return RANGE.sub("", name)


def _hash(name: str) -> int:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big")


def _cut(document: Part, per_mille: int, read: Read) -> int:
    """Where the held-out end of a document begins: after a line, or else between characters."""
    size = document.stop
    if size < 2:
        raise UserError(
            "the only document has a single byte, but training and evaluation need one each: set "
            "data.path to more text"
        )
    end = max(1, size * per_mille // 1000, min(size * FEW_PER_MILLE // 1000, ENOUGH))
    start = size - end
    text = read(document.document, start - 1, start + max(1, min(end // 2, MOST_SEARCHED)))
    if line := text[:-1].find(b"\n") + 1:
        return start - 1 + line
    begins = (i for i, byte in enumerate(text[1:]) if byte & 0xC0 != 0x80)
    return start + next(begins, 0)
