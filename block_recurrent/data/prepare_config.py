"""What to make a token store of."""

import dataclasses
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What `prepare.…` in a gin file sets.

    Attributes:
      task: name of a seqio Task or Mixture: 'pg19_bytes', 'pg19_tokens', 'arxiv', 'github',
        'text_files', or one of your own.
      module: Python module that registers Tasks and Mixtures of your own; imported first. Being
        code, it may be named by --gin_bindings alone, and by no gin file.
      vocabulary: of the Tasks named above: 'bytes', or the path of a SentencePiece model.
      tfds: TFDS dataset that arxiv, github and text_files read in place of the folder data.path, as
        'name', 'name/config' or 'name/config:version'.
      tfds_feature: the feature of its examples that holds the text of a document.
      tfds_data_dir: folder of the TFDS datasets; None: TFDS's own, ~/tensorflow_datasets.
      num_shards: parts in which each split is written, at most; a source of fewer files has fewer.
      num_processes: parts that are written at the same time; None: one for each core.
    """

    task: str | None = None
    module: str | None = None
    vocabulary: str = "bytes"
    tfds: str | None = None
    tfds_feature: str = "text"
    tfds_data_dir: str | None = None
    num_shards: Annotated[int, "files"] = 64
    num_processes: Annotated[int | None, "processes"] = None
