"""Surveys what `prepare_data` will read, or what a run will."""

from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Int64

from block_recurrent.config.options import DataConfig, PrepareConfig
from block_recurrent.data.corpora import load_documents, survey_corpus
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.prepare.folder_documents import FileGroup, Grouping, group_files
from block_recurrent.data.survey import Survey, survey
from block_recurrent.errors import UserError


class GroupSizes(NamedTuple):
    """Names and sizes of documents that are groups of files; see `Documents`."""

    names: list[str]
    lengths: Int64[np.ndarray, " documents"]
    num_bytes: int
    selection: str


def reads_folder(prepare: PrepareConfig, data: DataConfig) -> bool:
    """Whether `prepare_data` reads the files in data.path."""
    return prepare.task in get_args(Grouping) and bool(data.path) and not prepare.tfds


def survey_source(prepare: PrepareConfig, data: DataConfig, window_length: int | None) -> Survey:
    """Surveys the files that `prepare_data` reads, or else the corpus of a run; see `survey`.

    Raises:
      UserError: the corpus cannot be read.
    """
    if not reads_folder(prepare, data):
        if data.corpus == "store" and not all(Path(path).is_dir() for path in data.stores):
            raise UserError(
                "there is nothing to inspect before it is prepared: of seqio Tasks over TFDS or "
                "your own sources, inspect the finished store, with data.stores"
            )
        return survey_corpus(data, load_documents(data), window_length)
    folder = Path(data.path).expanduser()
    choice = data.glob, data.held_out_per_mille, data.held_out, data.encoding
    grouped = group_files(folder, prepare.task, *choice)
    groups = {
        "held_out" if split == "validation" else split: [group for group in found if group.stop]
        for split, found in grouped.splits.items()
    }
    sizes = {split: _sizes(found, grouped.selection) for split, found in groups.items()}
    files = {split: _files(found, folder) for split, found in groups.items()}
    return survey(sizes, window_length, folder, files, converted=data.encoding is not None)


def _sizes(groups: list[FileGroup], selection: str) -> GroupSizes:
    sizes = np.array([group.stop - group.start for group in groups], np.int64)
    return GroupSizes([group.name for group in groups], sizes + 1, int(sizes.sum()), selection)


def _files(groups: list[FileGroup], folder: Path) -> ByteDocuments:
    """The files of documents, except those that are listed with the first part of a document."""
    names = [name for group in groups if not group.start for name in group.files]
    return ByteDocuments({name: folder / name for name in names})
