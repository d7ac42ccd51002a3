"""The options of the corpus, and of making a token store of it."""

import dataclasses
import encodings.aliases
import os
from typing import Annotated, Literal

from block_recurrent.errors import UserError
from block_recurrent.fields import Range, checked, nearest
from block_recurrent.files.paths import is_url

PLACES = ("data.path", "data.stores", "data.held_out")  # options that say where documents lie
# '~' is the home folder: shells leave it as it is in quotes and after '='. URLs stay as they are.
LocalPath = Annotated[str, os.path.expanduser]


@checked
@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The corpus: `data.…` in a gin file.

    Attributes:
      corpus: 'standard_library' (Python's own source, on every machine), 'text_files' (the text in
        a file or a folder), 'store' (token stores made by prepare_data), or 'recall' (generated
        documents with facts at the start and questions about them at the end).
      path: the file or folder with the text, on disk or at a URL such as gs://bucket/texts.
      glob: which files of the folder, or of the archive, for example '**/*.txt', or several such
        patterns.
      held_out_per_mille: share of the documents held out for evaluation, chosen by name, if
        held_out is () and no file or folder is called valid, validation, val or dev; a token store
        has its own split.
      held_out: what to hold out instead: patterns of paths in the folder or in archives, or paths
        of files or folders, also elsewhere.
      encoding: of text, CSV and JSON files, which are converted to UTF-8, for example 'utf-16',
        'shift_jis' or 'latin_1'; 'detect': guessed for each file by charset-normalizer; None: their
        bytes are trained on as they are.
      allow_binary: whether to train on documents that are no text, such as PDF or images, as bytes.
      format: of all files: 'text', 'json', 'csv', 'tsv', 'parquet' or 'arrow'; 'auto': by suffix.
        Compressed files and archives are always recognised by their suffix.
      separator: cuts text files into documents, such as '<|endoftext|>'. After 're:' it is a
        regular expression. None: a file is a document.
      text_field: the field, or column, that holds the text of a row. Of this and all other fields,
        'a.b' is the field 'b' inside the field 'a'.
      name_field: the field that names a row's document; None: the file and the number of the row.
      group_by: rows with the same value in this field are one document; None: each row is one.
      order_by: the field by which the rows of such a document are sorted; None: as they come.
      skip_bad_rows: leave out rows without text or that cannot be read, instead of refusing them.
      stores: folders of token stores; several are mixed.
      weights: one per store: the ratio in which their tokens are read; empty: by their sizes.
      vocabulary: name of the vocabulary that the corpus must have; None: any. The config.gin of a
        run names the one it was trained with.
      recall_facts: facts in a document of 'recall', each of which is asked for.
      recall_values: possible values of a fact; a guess is right with probability 1 / recall_values.
      recall_filler: least and most bytes between facts and questions, uniform in the logarithm.
    """

    corpus: Literal["standard_library", "text_files", "store", "recall"] = "standard_library"
    path: LocalPath | None = None
    glob: str | tuple[str, ...] = "**/*"
    held_out_per_mille: Annotated[int, "‰ of documents", Range(1, most=999)] = 20
    format: Literal["auto", "text", "json", "csv", "tsv", "parquet", "arrow"] = "auto"
    separator: str | None = None
    text_field: str = "text"
    name_field: str | None = None
    group_by: str | None = None
    order_by: str | None = None
    skip_bad_rows: bool = False
    held_out: LocalPath | tuple[LocalPath, ...] = ()
    encoding: str | None = None
    allow_binary: bool = False
    stores: tuple[LocalPath, ...] = ()
    weights: tuple[Annotated[float, "tokens, relative", Range(above=0)], ...] = ()
    vocabulary: str | None = None
    recall_facts: Annotated[int, "facts", Range(1)] = 8
    recall_values: Annotated[int, "values", Range(2)] = 16
    recall_filler: tuple[Annotated[int, "bytes", Range(1)], ...] = (1, 2048)

    def __post_init__(self):
        for name in ("path", "glob", "held_out", "stores"):
            value = getattr(self, name)
            items = (value,) if isinstance(value, str | None) else value
            if "" in items or (name == "glob" and not items):
                what = "'.' is the current folder" if name != "glob" else "'**/*' is every file"
                raise UserError(f"data.{name} = {value!r} names nothing: {what}")
        if self.encoding not in (None, "detect"):
            check_encoding(self.encoding)

    def resolved(self, vocabulary: str) -> "DataConfig":
        """The same with absolute paths and the vocabulary's name, as saved in config.gin."""
        path = None if self.path is None else _absolute(self.path)
        stores = tuple(map(_absolute, self.stores))
        held_out = self.held_out
        if path is not None:
            items = (held_out,) if isinstance(held_out, str) else held_out
            held_out = tuple(_absolute_outside(path, item) for item in items)
        return dataclasses.replace(
            self, path=path, stores=stores, held_out=held_out, vocabulary=vocabulary
        )


@checked
@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How a token store is made: `prepare.…` in a gin file.

    Attributes:
      task: name of a seqio Task or Mixture: 'pg19_bytes', 'pg19_tokens', 'arxiv', 'github',
        'text_files', or your own.
      module: Python module that registers your own Tasks and Mixtures; it is imported first.
        Because it is code, it can only be set with --gin_bindings, not in a gin file.
      vocabulary: of the Tasks named above: 'bytes', or the path of a SentencePiece model or of a
        tokenizer.json.
      allow_lossy_vocabulary: whether the vocabulary may lose more than 0.1 % of the text, such as
        characters that it lacks. Bits per byte are then marked as not comparable.
      tfds: TFDS dataset that arxiv, github and text_files read instead of the folder data.path, as
        'name', 'name/config' or 'name/config:version'.
      tfds_feature: the feature of its examples that holds the text of a document.
      tfds_data_dir: folder of the TFDS datasets; None: TFDS's default, ~/tensorflow_datasets.
      num_shards: number of shards per split, at most; a source with fewer files has fewer.
      num_processes: number of shards written at the same time; None: one per core.
    """

    task: str | None = None
    module: str | None = None
    vocabulary: LocalPath = "bytes"
    allow_lossy_vocabulary: bool = False
    tfds: str | None = None
    tfds_feature: str = "text"
    tfds_data_dir: LocalPath | None = None
    num_shards: Annotated[int, "files", Range(1)] = 64
    num_processes: Annotated[int, "processes", Range(1)] | None = None


def check_encoding(encoding: str):
    """Raises UserError if `data.encoding` names no encoding of text; names the nearest one."""
    try:
        "".encode(encoding)
    except LookupError as error:
        known = encodings.aliases.aliases
        close = nearest(encoding, sorted({*known, *known.values()}))
        hint = f"did you mean '{close}'?" if close else "choose one that Python knows, or 'detect'"
        raise UserError(f"data.encoding = '{encoding}' is no encoding of text: {hint}") from error


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def _absolute_outside(folder: str, path: str) -> str:
    """The absolute path of a file or folder elsewhere; what lies in `folder` stays as it is."""
    absolute = _absolute(path)
    inside = os.path.join(folder, path)
    exists_only_elsewhere = os.path.exists(absolute) and not os.path.exists(inside)
    return absolute if exists_only_elsewhere else path
