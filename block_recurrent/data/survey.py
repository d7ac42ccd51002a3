"""A survey of a corpus: what will be trained on and scored, and what looks wrong with it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.findings import (
    EXAMPLES,
    Contents,
    Finding,
    count,
    equal_documents,
    leaving_links,
    megabytes,
    shorten,
)
from block_recurrent.data.formats.source_files import SourceFile
from block_recurrent.data.formats.suffixes import split_compression
from block_recurrent.errors import UserError

MUCH_PADDING = 0.1
LITTLE = 2048  # held-out bytes whose score says little
SHOWN = 5  # held-out documents, and suffixes, in a short survey


@runtime_checkable
class Sized(Protocol):
    """The names and sizes of documents, with or without their texts; see `Documents`."""

    names: Sequence[str]
    lengths: Int64[np.ndarray, " documents"]
    num_bytes: int


class SplitSurvey(NamedTuple):
    """One split of a corpus.

    Attributes:
      documents: number of documents.
      size: their bytes.
      longest: length of the longest document.
      median: length of the median document.
      unit: of these lengths: "bytes" or "tokens".
      padding: share of the positions of a batch that are padding, because a document begins at a
        block boundary; None if it is not known.
      named: names and sizes of its documents, for the user; [] for "train".
    """

    documents: int
    size: int
    longest: int
    median: int
    unit: str
    padding: float | None
    named: list[str]


class Survey(NamedTuple):
    """What is known about a corpus before the first step.

    Attributes:
      splits: the splits.
      suffixes: suffix → files that are not empty, and their bytes as they lie on disk, the largest
        first; {} for a corpus without files.
      selection: how "held_out" was chosen, for the user; None if the corpus has splits of its own.
      binary: documents that are no text.
      warnings: what else looks wrong.
      extent: how much was read for this; None for a corpus without files.
    """

    splits: dict[str, SplitSurvey]
    suffixes: dict[str, tuple[int, int]]
    selection: str | None
    binary: list[Finding]
    warnings: list[str]
    extent: str | None

    def lines(self, *, full: bool = False) -> Iterator[str]:
        """Describes the corpus, in a few lines or in full."""
        for line in self._lines(full):
            # A file name need not be UTF-8.
            yield line.encode("utf-8", "backslashreplace").decode()

    def _lines(self, full: bool) -> Iterator[str]:
        if self.suffixes:
            files = [
                f"{suffix} {megabytes(size)} in {number:,}"
                for suffix, (number, size) in self.suffixes.items()
            ]
            yield f"files: {shorten(files, len(files) if full else SHOWN)}"
        for split, one in self.splits.items():
            if full or split == "train":
                padding = "" if one.padding is None else f"; {one.padding:.1%} padding"
                yield (
                    f"{split}: {count(one.documents)}, {megabytes(one.size)}; the longest has "
                    f"{one.longest:,} {one.unit}, the median {one.median:,}{padding}"
                )
            if one.named:
                how = f", {self.selection}" if self.selection and split == "held_out" else ""
                how = ", never trained on" if split == "test" else how
                one_per_line = full and len(one.named) > SHOWN
                yield f"{split}{how}:{'' if one_per_line else f' {shorten(one.named, SHOWN)}'}"
                yield from (f"    {name}" for name in one.named if one_per_line)
        if self.extent:
            yield self.extent
        yield from (f"warning: {text}" for text in (*self.binary, *self.warnings))

    def refuse_binary(self):
        """Raises UserError if there are documents that are no text."""
        if self.binary:
            kinds = (f"{one.problem} ({shorten(one.names, EXAMPLES)})" for one in self.binary)
            raise UserError(
                f"{count(sum(len(one.names) for one in self.binary))} not text: "
                f"{', '.join(kinds)}: choose others with data.glob, such as '**/*.txt', or set "
                "data.allow_binary = True to train on their bytes"
            )


def survey(
    splits: Mapping[str, Sized],
    window_length: int | None,
    files: Sequence[SourceFile] = (),
    texts: Mapping[str, ByteDocuments] | None = None,
    sampled: str | None = None,
    converted: bool = False,
) -> Survey:
    """Surveys the splits of a corpus. Reads a few hundred MB at most, and says how much.

    Args:
      splits: the documents of each split.
      window_length: tokens of a block, at whose start a document begins; None: not known.
      files: in which the documents are. If there are none, only the lengths of the documents are
        looked at.
      texts: the contents of each split; None: the documents.
      sampled: what part of the corpus the documents are; None: all of it.
      converted: whether `texts` are not in UTF-8 yet, but will be.
    """
    found = {split: _survey_split(split, each, window_length) for split, each in splits.items()}
    binary, warnings, suffixes, extent = [], [], {}, None
    if files:
        texts = texts or splits
        contents = Contents(texts)
        binary, suffixes = contents.binary, _suffixes(files)
        extent = contents.extent if sampled is None else f"{contents.extent}: {sampled}"
        findings = [] if converted else contents.encodings
        findings += [*equal_documents(texts), *leaving_links(files)]
        warnings += map(str, findings)
    if (padding := found["train"].padding or 0) > MUCH_PADDING:
        warnings.append(
            f"{padding:.0%} of the positions in a batch are padding, because documents are short "
            f"for a window of {window_length} tokens: set a smaller "
            "BlockRecurrentTransformer.window_length, or join documents"
        )
    if (size := found["held_out"].size) < LITTLE:
        warnings.append(
            f"only {size:,} bytes are held out, so their score says little: hold out more with "
            "data.held_out or data.held_out_per_mille, or add text"
        )
    selection = getattr(splits["held_out"], "selection", None)
    return Survey(found, suffixes, selection, binary, warnings, extent)


def _survey_split(split: str, documents: Sized, window_length: int | None) -> SplitSurvey:
    lengths = np.asarray(documents.lengths, np.int64)
    in_bytes = documents.num_bytes == int(lengths.sum()) - len(lengths)  # without end tokens
    sizes = lengths - 1 if in_bytes else lengths
    padding = None
    if window_length is not None and len(lengths):
        positions = int((-(-lengths // window_length)).sum()) * window_length
        padding = 1 - int(lengths.sum()) / positions
    named = []
    if split != "train":
        form = megabytes if in_bytes else "{:,} tokens".format
        named = [
            f"{name} ({form(size)})"
            for name, size in zip(documents.names, sizes.tolist(), strict=True)
        ]
    return SplitSurvey(
        len(lengths),
        documents.num_bytes,
        int(sizes.max(initial=0)),
        int(np.median(sizes)) if len(sizes) else 0,
        "bytes" if in_bytes else "tokens",
        padding,
        named,
    )


def _suffixes(files: Sequence[SourceFile]) -> dict[str, tuple[int, int]]:
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in files:
        if file.size:
            name, compression = split_compression(file.name)
            entry = found[PurePosixPath(name).suffix + compression or "(no suffix)"]
            entry[0] += 1
            entry[1] += file.size
    by_size = sorted(found.items(), key=lambda item: -item[1][1])
    return {suffix: tuple(entry) for suffix, entry in by_size}
