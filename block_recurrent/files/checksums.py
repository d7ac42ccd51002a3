"""Checksums of the files in a folder, to detect damage before reading them."""

import hashlib
import json
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from block_recurrent.files.writing import atomic_write

CHECKSUMS = "checksums.json"


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """Size and checksum of a file, as {"bytes": …, "sha256": …}."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def find_difference(path: Path, written: Mapping[str, Any]) -> str | None:
    """Describes how a file differs from an earlier `describe_file`; None if it does not."""
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != written["bytes"]:
        return f"{path} has {path.stat().st_size:,} bytes, but {written['bytes']:,} were written"
    if sha256(path) != written["sha256"]:
        return f"{path} contains other bytes than were written"
    return None


def write_checksums(folder: Path, exclude: Container[str] = ()):
    """Writes checksums.json: `describe_file` of every file in the folder and its subfolders.

    Args:
      folder: the folder.
      exclude: names of files to leave out because they may still change.
    """
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in exclude
    )
    names = [str(path.relative_to(folder)) for path in files]
    with ThreadPoolExecutor() as pool:
        checksums = dict(zip(names, pool.map(describe_file, files), strict=True))
    with atomic_write(folder / CHECKSUMS) as file:
        file.write(json.dumps(checksums, indent=1).encode())


def is_description(written: object) -> bool:
    """Whether an object has the form of a result of `describe_file`."""
    match written:
        case {"bytes": int(), "sha256": str()}:
            return True
    return False


def read_checksums(path: Path) -> dict[str, dict[str, Any]] | None:
    """Reads what `write_checksums` wrote, by file name; None if the file has something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    described = isinstance(found, dict) and all(map(is_description, found.values()))
    return found if described else None


def find_damage(
    folder: Path, part: int = 0, parts: int = 1, exclude: Container[str] = ()
) -> str | None:
    """Describes a change in a folder since `write_checksums`; None if nothing has changed.

    Files that were added are ignored.

    Args:
      folder: the folder with checksums.json.
      part: index of the part of the files to check.
      parts: number of parts into which the files are divided.
      exclude: names of subfolders to leave out.
    """
    path = folder / CHECKSUMS
    try:
        if (checksums := read_checksums(path)) is None:
            return f"{path} contains no checksums"
        names = sorted(name for name in checksums if name.split("/")[0] not in exclude)[part::parts]
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: find_difference(folder / name, checksums[name]), names)
            return next(filter(None, found), None)
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{error.filename or path} cannot be read ({error.strerror})"
