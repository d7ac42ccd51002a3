"""What can happen to a file, and each of it to each file of a checkpoint."""

import contextlib
import io
import shutil
from pathlib import Path

from block_recurrent.training.checkpoints import ORBAX_NOTES, Checkpoints
from faults.place import Place
from faults.tried import Tried

# Read by nobody: what stands in them does not matter, nor whether they are there.
NOTES = {*ORBAX_NOTES, "commit_success.txt"}


def empty(path: Path):
    """What a power cut leaves of a file that was not written through."""
    path.write_bytes(b"")


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def delete(path: Path):
    path.unlink()


DAMAGES = (empty, truncate, flip, delete)


def damaged_files(place: Place) -> Tried:
    """Every file of the newest checkpoint damaged in every way: the one before it is taken."""
    workdir, _ = place.calm()
    with Checkpoints(workdir, read_only=True) as checkpoints:
        before, newest = checkpoints.steps[-2:]
    folder, copy = workdir / "checkpoints" / str(newest), place.workdir()
    shutil.copytree(workdir / "checkpoints", copy / "checkpoints")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - NOTES
    passed_over = 0
    for name in sorted(names):
        for damage in DAMAGES:
            file = copy / "checkpoints" / str(newest) / name
            damage(file)
            with (
                contextlib.redirect_stderr(io.StringIO()),  # which file: a line for each
                Checkpoints(copy, read_only=True) as checkpoints,
            ):
                passed_over += checkpoints.find_latest_whole() == before
            shutil.copy(folder / name, file)
    tried = len(names) * len(DAMAGES)
    note = f"{len(names)} files, each emptied, cut in half, with a bit flipped, deleted"
    return Tried("a file of the newest checkpoint damaged", tried, passed_over, note)
