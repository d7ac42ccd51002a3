"""A local folder as the data source of a seqio Task."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from block_recurrent.data.documents import CHUNK_BYTES
from block_recurrent.data.prepare.folder_documents import Cut, FileGroup, Grouping
from block_recurrent.data.prepare.plain_folder import PlainFolder


class FolderSource(seqio.DataSource):
    """The documents in the files of a folder, for the package's Tasks or for your own::

        seqio.TaskRegistry.add(
            "my_papers",
            FolderSource("~/papers", grouping="arxiv"),
            preprocessors=[block_recurrent.data.prepare.tasks.tokenize],
            output_features={"targets": seqio.Feature(seqio.ByteVocabulary())},
            shuffle_buffer_size=None,
        )

    An example is a piece of a document, so memory does not grow with the length of documents. Its
    features are "name", "targets" (the text, as bytes) and "continues" (whether the next example
    continues the same document). The splits are "train", "validation" and, if the folder has one,
    "test". The folder is read when it is first needed. The arguments are explained in
    `group_files`, and `cut` in `read_pieces`.
    """

    def __init__(
        self,
        path: str | Path,
        grouping: Grouping = "text_files",
        glob: str | Sequence[str] = "**/*",
        held_out_per_mille: int = 20,
        cut: Cut = "anywhere",
        held_out: str | Sequence[str] = (),
        encoding: str | None = None,
    ):
        super().__init__(splits=())
        choice = held_out_per_mille, cut, held_out, encoding
        self.folder = PlainFolder(path, grouping, glob, *choice)

    @property
    def splits(self) -> Sequence[str]:
        return list(self.folder.documents)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [document.name for document in self.folder.documents[split]]

    def num_input_examples(self, split: str) -> int:
        """The number of pieces, estimated from the sizes of the documents."""
        sizes = (document.stop - document.start for document in self.folder.documents[split])
        return sum(max(1, -(-size // CHUNK_BYTES)) for size in sizes)

    def describe(self) -> dict[str, Any]:
        """Everything that determines the examples."""
        return self.folder.describe()

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = False,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **_,
    ) -> tf.data.Dataset:
        if shuffle:
            raise ValueError("the pieces of a document must keep their order: use shuffle=False")
        shard = shard_info or seqio.ShardInfo(0, 1)
        documents = self.folder.documents[split][shard.index :: shard.num_shards]
        signature = {
            "name": tf.TensorSpec((), tf.string),
            "targets": tf.TensorSpec((), tf.string),
            "continues": tf.TensorSpec((), tf.bool),
        }
        return tf.data.Dataset.from_generator(
            lambda: self._examples(documents), output_signature=signature
        )

    def _examples(self, documents: Sequence[FileGroup]) -> Iterator[dict[str, Any]]:
        for document in documents:
            name = document.name.encode("utf-8", "surrogateescape")
            for text, continues in self.folder.read(document):
                yield {"name": name, "targets": text, "continues": continues}
