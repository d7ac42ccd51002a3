"""A small folder of texts, and the configuration of a run on it."""

import dataclasses
from pathlib import Path

import numpy as np

from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.config.train_options import OptimizerConfig, TrainConfig
from tiny import TINY

WORDS = "the state of a block is carried from one window to the next by gates".split()


def write_corpus(folder: Path, num_documents: int = 12, seed: int = 0) -> Path:
    """Writes documents of 0.1 to 1 kB."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(num_documents):
        words = rng.choice(WORDS, rng.integers(20, 200))
        (folder / f"{index}.txt").write_text(" ".join(words))
    return folder


def tiny_run(folder: Path, **train) -> RunConfig:
    """A run of 12 steps of one layer with dropout; keywords override fields of its `TrainConfig`.

    Checkpoints are saved after 4, 8 and 12 steps, and not at the evaluation after 6.
    """
    steps = {"num_steps": 12, "log_every_steps": 5, "eval_every_steps": 6}
    steps |= {"batch_size": 4, "segment_length": 32, "checkpoint_every_steps": 4, "keep_best": 0}
    return RunConfig(
        model=dataclasses.replace(TINY, num_layers=1, recurrent_layers=(0,), dropout_rate=0.1),
        train=TrainConfig(**steps | train),
        optimizer=OptimizerConfig(warmup_steps=2),
        data=DataConfig(corpus="text_files", path=str(folder), held_out_per_mille=200),
    )
