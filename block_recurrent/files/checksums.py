"""Checksums of files, written with them, so that damage is seen before it is read."""

import hashlib
import json
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from block_recurrent.files.writing import atomic_write

CHECKSUMS = "checksums.json"


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Size and checksum of a file: {"bytes", "sha256"}."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def find_difference(path: Path, written: Mapping[str, Any]) -> str | None:
    """What of a file is not as `description` has found it; None: nothing."""
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != written["bytes"]:
        return f"{path} has {path.stat().st_size:,} bytes, and {written['bytes']:,} were written"
    if sha256(path) != written["sha256"]:
        return f"{path} holds other bytes than were written"
    return None


def write_checksums(folder: Path, but: Container[str] = ()):
    """Writes checksums.json: the description of every file in the folder and below.

    Args:
      folder: that is to be sealed.
      but: names of files that may still change.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    names = [str(path.relative_to(folder)) for path in files]
    with ThreadPoolExecutor() as pool:
        checksums = dict(zip(names, pool.map(describe_file, files), strict=True))
    with atomic_write(folder / CHECKSUMS) as file:
        file.write(json.dumps(checksums, indent=1).encode())


def is_description(written: object) -> bool:
    """Whether it is what `description` gives."""
    match written:
        case {"bytes": int(), "sha256": str()}:
            return True
    return False


def read_checksums(path: Path) -> dict[str, dict[str, Any]] | None:
    """What `seal` has written, by the files' names; None: it is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    described = isinstance(found, dict) and all(map(is_description, found.values()))
    return found if described else None


def find_damage(
    folder: Path, part: int = 0, parts: int = 1, but: Container[str] = ()
) -> str | None:
    """What in a sealed folder is not as it was; None: all is. Files added since do not count.

    Args:
      folder: with a checksums.json.
      part: which part of the files to look at, from 0.
      parts: into how many they are divided.
      but: names of folders in it to leave out.
    """
    path = folder / CHECKSUMS
    try:
        if (checksums := read_checksums(path)) is None:
            return f"{path} holds no checksums"
        names = sorted(name for name in checksums if name.split("/")[0] not in but)[part::parts]
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: find_difference(folder / name, checksums[name]), names)
            return next(filter(None, found), None)
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{error.filename or path} cannot be read ({error.strerror})"
