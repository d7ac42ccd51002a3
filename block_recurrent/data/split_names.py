"""Recognises the names that people give to the files and folders of a split.

For example ``train.txt``, ``wiki.valid.tokens``, ``dev-v1.1.json``, ``test/a.txt``, and the shards
of Hugging Face, ``data/validation-00000-of-00002.parquet``. A document may also be a row of a file,
as in ``train.jsonl:12``.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

Split = Literal["train", "held_out", "test"]

WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "held_out", "heldout"), "held_out"),
    "test": "test",
}
# Many projects call a folder of something else by these names.
AMBIGUOUS_FOLDERS = ("test", "dev")
# Files of data. A program test.py is not a test split.
SUFFIXES = (
    "txt text raw tokens md tex html xml json jsonl ndjson csv tsv parquet arrow tar zip gz bz2 xz "
    "zst tgz"
).split()
NAME = re.compile(
    rf"(?P<prefix>(.*[._-])?)(?P<word>{'|'.join(sorted(WORDS, key=len, reverse=True))})"
    r"([._-]?v?\d[\d._]*(-of-\d+)?(-[0-9a-f]{6,})?)?(?P<suffixes>(\.[a-z]\w*)*)(:\d+)?",
    re.IGNORECASE,
)


class Mark(NamedTuple):
    """A part of a path that names a split.

    Attributes:
      split: the split.
      place: folder and prefix, which are the same for the other splits of these data.
      needs_train: whether it counts only beside training data of the same place.
      depth: number of folders above.
    """

    split: Split
    place: tuple[str, str]
    needs_train: bool
    depth: int


def recognised_splits(
    names: Sequence[str], sizes: Sequence[int] | np.ndarray
) -> list[Split | None]:
    """The split that each document's path names; None if it names none.

    A name counts if it stands at the top of the corpus. Further down, it counts if more than half
    of the text is in files and folders so named, because source code has many a folder called test
    that is no split. For the same reason, there it counts only beside training data, as do names
    with a prefix, such as ``wiki.test.txt``, and folders called test or dev.

    Args:
      names: paths in the corpus, with '/' separators.
      sizes: bytes of each document.
    """
    marks = [list(_marks(name)) for name in names]
    trained = {mark.place for found in marks for mark in found if mark.split == "train"}
    counted = [
        next((m for m in found if not m.needs_train or m.place in trained), None) for found in marks
    ]
    sizes = np.asarray(sizes, np.int64)
    named = sum(int(size) for mark, size in zip(counted, sizes, strict=True) if mark)
    deepest = max((mark.depth for mark in counted if mark), default=0)
    limit = deepest if 2 * named > int(sizes.sum()) else 0
    return [mark.split if mark and mark.depth <= limit else None for mark in counted]


def _marks(name: str) -> Iterator[Mark]:
    """The marks in a path, from the top down."""
    parts = name.split("/")
    for depth, part in enumerate(parts):
        is_file = depth == len(parts) - 1
        if found := _parse(part, is_file):
            word, prefix = found
            ambiguous = not is_file and word in AMBIGUOUS_FOLDERS
            needs_train = bool(prefix or ambiguous or depth) and WORDS[word] != "train"
            yield Mark(WORDS[word], ("/".join(parts[:depth]), prefix), needs_train, depth)


@functools.lru_cache(maxsize=65_536)
def _parse(part: str, is_file: bool) -> tuple[str, str] | None:
    """The word for a split in the name of a file or folder, and what stands before it."""
    found = NAME.fullmatch(part)
    if not found:
        return None
    suffixes = found["suffixes"].lower().split(".")[1:]
    if is_file and not set(suffixes) <= set(SUFFIXES):
        return None
    return found["word"].lower(), found["prefix"].lower()
