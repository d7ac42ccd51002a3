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
    """Size and checksum of a file: {"bytes", "sha256"}."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def find_difference(path: Path, written: Mapping[str, Any]) -> str | None:
    """How a file differs from its `describe_file`, in words; None if it does not."""
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != written["bytes"]:
        return f"{path} has {path.stat().st_size:,} bytes, but {written['bytes']:,} were written"
    if sha256(path) != written["sha256"]:
        return f"{path} contains other bytes than were written"
    return None


def write_checksums(folder: Path, but: Container[str] = ()):
    """Writes checksums.json: `describe_file` of every file in the folder and below.

    Args:
      folder: the folder.
      but: names of files to leave out, since they may still change.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in but)
    names = [str(path.relative_to(folder)) for path in files]
    with ThreadPoolExecutor() as pool:
        checksums = dict(zip(names, pool.map(describe_file, files), strict=True))
    with atomic_write(folder / CHECKSUMS) as file:
        file.write(json.dumps(checksums, indent=1).encode())


def is_description(written: object) -> bool:
    """Whether it has the form of `describe_file`."""
    match written:
        case {"bytes": int(), "sha256": str()}:
            return True
    return False


def read_checksums(path: Path) -> dict[str, dict[str, Any]] | None:
    """What `write_checksums` wrote, by the files' names; None if it is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    described = isinstance(found, dict) and all(map(is_description, found.values()))
    return found if described else None


def find_damage(
    folder: Path, part: int = 0, parts: int = 1, but: Container[str] = ()
) -> str | None:
    """What has changed in a folder since `write_checksums`, in words; None if nothing has.

    Files added since do not count.

    Args:
      folder: contains checksums.json.
      part: index of the part of the files to check.
      parts: number of parts into which the files are divided.
      but: names of subfolders to leave out.
    """
    path = folder / CHECKSUMS
    try:
        if (checksums := read_checksums(path)) is None:
            return f"{path} contains no checksums"
        names = sorted(name for name in checksums if name.split("/")[0] not in but)[part::parts]
        with ThreadPoolExecutor() as pool:
            found = pool.map(lambda name: find_difference(folder / name, checksums[name]), names)
            return next(filter(None, found), None)
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{error.filename or path} cannot be read ({error.strerror})"
