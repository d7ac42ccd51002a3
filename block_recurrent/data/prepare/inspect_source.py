"""Surveys the files that `prepare_data` will read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.findings import READ_BYTES, megabytes
from block_recurrent.data.formats.source_files import on_disk
from block_recurrent.data.prepare.folder_documents import SEQIO_SPLITS, FileGroup
from block_recurrent.data.prepare.plain_folder import PlainFolder
from block_recurrent.data.prepare.streamed_corpus import StreamedCorpus
from block_recurrent.data.prepare.streamed_division import take_parts
from block_recurrent.data.survey import Survey, survey

MOST_FILES = 1000  # that are looked into


class DocumentSizes(NamedTuple):
    """Names and sizes of documents, and how they were chosen; see `Documents`."""

    names: list[str]
    lengths: Int64[np.ndarray, " documents"]
    num_bytes: int
    selection: str


def survey_texts(texts: PlainFolder | StreamedCorpus, window_length: int | None) -> Survey:
    """Surveys the documents of files; see `survey`.

    Raises:
      UserError: the files cannot be read.
    """
    if isinstance(texts, PlainFolder):
        return _survey_folder(texts, window_length)
    return _survey_stream(texts, window_length)


def _survey_folder(texts: PlainFolder, window_length: int | None) -> Survey:
    groups = {
        split: [group for group in texts.documents.get(of_seqio, ()) if group.stop]
        for split, of_seqio in SEQIO_SPLITS.items()
    }
    groups = {split: found for split, found in groups.items() if found}
    sizes = {
        split: _sizes({g.name: g.stop - g.start for g in found}, texts.grouped.selection)
        for split, found in groups.items()
    }
    contents = {split: _contents(found, texts.path) for split, found in groups.items()}
    files = [on_disk(name, texts.path / name) for one in contents.values() for name in one.names]
    converted = texts.encoding is not None
    return survey(sizes, window_length, files, contents, converted=converted)


def _contents(groups: list[FileGroup], folder: Path) -> ByteDocuments:
    """The files of documents, except those that are listed with the first part of a document."""
    names = [name for group in groups if not group.start for name in group.files]
    return ByteDocuments({name: folder / name for name in names})


def _survey_stream(texts: StreamedCorpus, window_length: int | None) -> Survey:
    """Surveys the first documents of files, `READ_BYTES` in all, or at least one of each."""
    corpus, division = texts.corpus, texts.division
    step = -(-len(corpus.files) // MOST_FILES)
    streams = [corpus.only(file).rows() for file in corpus.files[::step]]
    if division.few is not None:
        streams, step = [corpus.documents()], 1
    most = READ_BYTES // len(streams)
    samples = {split: _Sample() for split in SEQIO_SPLITS}
    is_all = step == 1
    for documents in streams:
        room = most
        for document in documents:
            if room <= 0:
                is_all = False
                break
            for part, pieces in take_parts(document, division.parts(document)):
                room -= samples[part.split].add(part.name, pieces, room)
    samples = {split: one for split, one in samples.items() if one.sizes or split != "test"}
    sizes = {split: _sizes(one.sizes, division.reason) for split, one in samples.items()}
    contents = {split: ByteDocuments(one.heads) for split, one in samples.items()}
    part = f"all figures are those of the first {megabytes(most)} of {len(streams):,} files"
    return survey(sizes, window_length, corpus.files, contents, None if is_all else part)


class _Sample:
    """Documents of one split, or their beginnings, by name."""

    def __init__(self):
        self.sizes: dict[str, int] = {}
        self.heads: dict[str, bytes] = {}

    def add(self, name: str, pieces: Iterable[bytes], room: int) -> int:
        """Adds text to a document, with `room` bytes of it at most. Returns its size."""
        head, size = [], 0
        for piece in pieces:
            head.append(piece[: max(room - size, 0)])
            size += len(piece)
        if size:
            self.sizes[name] = self.sizes.get(name, 0) + size
            self.heads[name] = self.heads.get(name, b"") + b"".join(head)
        return size


def _sizes(sizes: Mapping[str, int], selection: str) -> DocumentSizes:
    lengths = np.array(list(sizes.values()), np.int64) + 1
    return DocumentSizes(list(sizes), lengths, sum(sizes.values()), selection)
