"""The temporary folder in which a token store is written until it is complete."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from block_recurrent.data.prepare.store_writer import write_json
from block_recurrent.data.store_format import METADATA, read_json
from block_recurrent.errors import UserError
from block_recurrent.files.lock import LockedError, file_lock

PLAN = "plan.json"  # everything that determines the content of the store
LOCK = "lock"

Plan = Mapping[str, Any]


def partial_path(output: Path) -> Path:
    """The temporary folder of the store at `output`."""
    whole = Path(os.path.abspath(output))  # "." has no name
    return whole.with_name(whole.name + ".partial")


def is_prepared(output: Path, plan: Plan) -> bool:
    """Whether `output` contains the complete store of this plan.

    Raises:
      UserError: it contains something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / METADATA).is_file() or not (output / PLAN).is_file():
        raise UserError(f"{output} exists and is not a token store: name another --output")
    if different := _differences(read_json(output / PLAN), plan):
        raise UserError(
            f"{output} is another token store ({different}): name another --output, or remove it"
        )
    (output / LOCK).unlink(missing_ok=True)  # left behind if the process was killed at the end
    return True


@contextlib.contextmanager
def partial_folder(output: Path, plan: Plan) -> Iterator[Path]:
    """A folder that this process locks, and that is renamed to `output` if the context succeeds.

    It contains the shards that an earlier process with the same plan has finished.

    Raises:
      UserError: another process is writing to it, or it is part of a store with another plan.
    """
    folder = partial_path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / LOCK))
        except (LockedError, FileNotFoundError) as error:  # not found: another process renamed it
            raise _in_use(folder) from error
        path = folder / PLAN
        if path.exists() and (different := _differences(read_json(path), plan)):
            raise UserError(
                f"{folder} is part of another token store ({different}): remove it, or "
                "name another --output"
            )
        write_json(path, plan)
        _remove_temporary(folder)
        try:
            yield folder
        finally:
            _remove_temporary(folder)
        _fsync(folder)
        folder.rename(output)
        (output / LOCK).unlink()
        _fsync(output.parent)


def _in_use(folder: Path) -> UserError:
    return UserError(
        f"another prepare_data is writing to {folder}: wait until it ends, or name another --output"
    )


def _remove_temporary(folder: Path):
    """Removes the files that a process left unfinished when it was killed."""
    for path in folder.rglob("*.tmp"):
        path.unlink(missing_ok=True)


def _fsync(folder: Path):
    """Makes sure that the names of the files in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _differences(old: Plan, new: Plan) -> str:
    """The differences, such as "num_shards: 64 there, 8 now; …"; empty if the plans are equal."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return "; ".join(
        f"{name}: {_shorten(before.get(name))} there, {_shorten(after.get(name))} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def _flatten(plan: Plan, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested dicts, with their keys joined by dots."""
    for name, value in json.loads(json.dumps(plan)).items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shorten(value: Any) -> str:
    """The value as text. Long values, which are checksums, are truncated."""
    return repr(value) if len(repr(value)) < 40 else f"{repr(value)[:9]}…'"
