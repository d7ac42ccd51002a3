"""A small token store."""

from pathlib import Path

import numpy as np

from block_recurrent.data.prepare.store_writer import ShardWriter, finish_store
from block_recurrent.data.vocabularies import ByteVocabulary

BYTES = {"kind": "bytes", "size": 259, "eos": 1}
TEXTS = {
    "train": [["one two", "", "three\n"], ["four " * 40], ["fünf", "é"]],
    "held_out": [["held out"]],
    "test": [["a b c d"], []],
}


def make_store(folder: Path, texts=TEXTS, vocabulary=BYTES) -> Path:
    """Writes a store of bytes, with one list of texts per shard and each text in two pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    encode = ByteVocabulary().encode
    for split, shards in texts.items():
        for shard, documents in enumerate(shards):
            with ShardWriter(folder, split, shard, vocabulary["size"]) as writer:
                for number, text in enumerate(documents):
                    raw = text.encode()
                    writer.add(encode(raw[:5]), raw[:5])
                    writer.add(np.append(encode(raw[5:]), 1), raw[5:])
                    writer.end_document(f"{split} {shard}/{number}\n")
    shards = {split: len(shards) for split, shards in texts.items()}
    finish_store(folder, task="test", vocabulary=vocabulary, shards=shards)
    return folder
