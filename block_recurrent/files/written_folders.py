"""Recognises the folders that this package writes, which are no text to train on."""

from collections.abc import Collection

# What a run writes to its folder.
RUN_FILES = (
    "checkpoints config.gin corpus.json heartbeat.json layout.txt lock metrics.jsonl nonfinite "
    "samples.jsonl tensorboard wandb wandb_id"
).split()


def is_run(files: Collection[str], folders: Collection[str]) -> bool:
    """Whether a folder with these files and subfolders is that of a run."""
    return "config.gin" in files and ("checkpoints" in folders or "lock" in files)


def is_store(name: str, files: Collection[str]) -> bool:
    """Whether a folder with this name and these files is a token store, complete or not."""
    return "store.json" in files or (name.endswith(".partial") and "plan.json" in files)
