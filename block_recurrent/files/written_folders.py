"""Recognises the folders that this package writes, which are no text to train on."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

# What a run writes to its folder.
RUN_FILES = (
    "changes.txt checkpoints config.gin corpus.json heartbeat.json layout.txt lock metrics.jsonl "
    "nonfinite profile samples.jsonl tensorboard wandb wandb_id"
).split()


def without_written(names: Iterable[str]) -> list[str]:
    """The files of a folder that are neither in folders of runs nor in token stores.

    If the folder is itself that of a run, the run's own files are left out.

    Args:
      names: of all files, as paths in the folder with '/' separators.
    """
    names = list(names)
    inside: dict[str, set[str]] = defaultdict(set)  # folder → names of files and folders in it
    for name in names:
        folder, _, file = name.rpartition("/")
        while file not in inside[folder]:
            inside[folder].add(file)
            folder, _, file = folder.rpartition("/")
    written = {
        folder
        for folder, found in inside.items()
        if folder and (_is_run(found) or _is_store(folder, found))
    }
    own = RUN_FILES if _is_run(inside[""]) else ()
    return [
        name
        for name in names
        if name.partition("/")[0] not in own
        if not written or written.isdisjoint(map(str, PurePosixPath(name).parents))
    ]


def _is_run(inside: Collection[str]) -> bool:
    return "config.gin" in inside and ("checkpoints" in inside or "lock" in inside)


def _is_store(folder: str, inside: Collection[str]) -> bool:
    return "store.json" in inside or (folder.endswith(".partial") and "plan.json" in inside)
