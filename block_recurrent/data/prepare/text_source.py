"""Files as the source of a store: their documents, in pieces that are tokenized one by one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.data.formats.corpus import Corpus
from block_recurrent.data.prepare.cuts import cut_for
from block_recurrent.data.prepare.folder_documents import Cut, Grouping
from block_recurrent.data.prepare.plain_folder import PlainFolder
from block_recurrent.data.prepare.source import Example
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.prepare.streamed_corpus import StreamedCorpus
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.data.vocabulary_storage import load_vocabulary
from block_recurrent.freed_memory import keep_freed_memory


class TextSource:
    """The documents of files, tokenized piece by piece, as a `Source`.

    Args:
      texts: the documents.
      vocabulary: which tokenizes them.
    """

    def __init__(self, texts: PlainFolder | StreamedCorpus, vocabulary: Vocabulary):
        self.texts, self.vocabulary = texts, vocabulary

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        return self.texts.passes

    def describe(self) -> dict[str, Any]:
        return self.texts.describe()

    def num_shards(self, split: str, most: int) -> int:
        return self.texts.num_shards(split, most)

    def size(self, shard: Shard) -> int:
        return self.texts.size(shard)

    def begin(self, folder: Path):
        self.texts.begin(folder)

    def end(self, folder: Path):
        self.texts.end(folder)

    def examples(self, shard: Shard) -> Iterator[Example]:
        keep_freed_memory()
        for split, name, text, continues in self.texts.pieces(shard):
            yield Example(split, name, text, continues, self.vocabulary.encode(text))

    @property
    def skipped(self) -> int:
        return self.texts.skipped

    @property
    def done(self) -> int:
        return self.texts.done


def open_text(prepare: PrepareConfig, data: DataConfig) -> TextSource:
    """The source of 'arxiv', 'github' or 'text_files', from the files at data.path.

    Raises:
      UserError: the files or the vocabulary cannot be read.
    """
    vocabulary = load_vocabulary(prepare.vocabulary)
    return TextSource(open_texts(prepare.task, data, cut_for(vocabulary)), vocabulary)


def open_texts(grouping: Grouping, data: DataConfig, cut: Cut) -> PlainFolder | StreamedCorpus:
    """The documents of the files at data.path; see `group_files` and `read_pieces`."""
    corpus = Corpus(data) if grouping == "text_files" else None
    if corpus is None or (corpus.is_plain and Path(data.path).is_dir()):
        choice = data.held_out_per_mille, cut, data.held_out, data.encoding
        return PlainFolder(data.path, grouping, data.glob, *choice)
    return StreamedCorpus(corpus, cut)
