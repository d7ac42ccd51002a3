"""Ways to damage a file, each of which is tried on every file of a checkpoint."""

import contextlib
import io
import shutil
from pathlib import Path

from block_recurrent.training.checkpoints import UNCHECKED_FILES, Checkpoints
from faults.place import Place
from faults.tried import Tried

# These are never read: neither their content nor their existence matters.
NOTES = {*UNCHECKED_FILES, "commit_success.txt"}


def empty(path: Path):
    """Empties a file, as after a power cut if it was not synced."""
    path.write_bytes(b"")


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path):
    """Flips one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def delete(path: Path):
    path.unlink()


DAMAGES = (empty, truncate, flip, delete)


def damaged_files(place: Place) -> Tried:
    """Damages each file of the newest checkpoint in every way: the previous one is used."""
    workdir, _ = place.undisturbed()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        before, newest = checkpoints.steps[-2:]
    folder, copy = workdir / "checkpoints" / str(newest), place.workdir()
    shutil.copytree(workdir / "checkpoints", copy / "checkpoints")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - NOTES
    skipped = 0
    for name in sorted(names):
        for damage in DAMAGES:
            file = copy / "checkpoints" / str(newest) / name
            damage(file)
            with (
                contextlib.redirect_stderr(io.StringIO()),  # one line per file
                Checkpoints(copy, read_only=True) as checkpoints,
            ):
                skipped += checkpoints.find_latest_intact() == before
            shutil.copy(folder / name, file)
    tried = len(names) * len(DAMAGES)
    note = f"{len(names)} files, each emptied, cut in half, with a bit flipped, deleted"
    return Tried("a file of the newest checkpoint damaged", tried, skipped, note)
