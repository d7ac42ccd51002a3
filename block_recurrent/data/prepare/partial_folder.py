"""The folder in which a token store grows until it is whole."""

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

PLAN = "plan.json"  # all that decides the content of the store
LOCK = "lock"

Plan = Mapping[str, Any]


def partial_of(output: Path) -> Path:
    """Where the store at `output` is written first."""
    whole = Path(os.path.abspath(output))  # "." has no name
    return whole.with_name(whole.name + ".partial")


def is_prepared(output: Path, plan: Plan) -> bool:
    """Whether the store of this plan is there already.

    Raises:
      UserError: something else is.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    if not (output / METADATA).is_file() or not (output / PLAN).is_file():
        raise UserError(f"{output} is there already, and no token store: name another --output")
    if different := _differences(read_json(output / PLAN), plan):
        raise UserError(
            f"{output} holds another token store ({different}): name another --output, or remove it"
        )
    (output / LOCK).unlink(missing_ok=True)  # if the process was killed at its last step
    return True


@contextlib.contextmanager
def partial_folder(output: Path, plan: Plan) -> Iterator[Path]:
    """A folder of this process alone, which becomes `output` where the context ends well.

    What an earlier process of the same plan has finished in it is still there.

    Raises:
      UserError: another process is writing to it, or has written to it by another plan.
    """
    folder = partial_of(output)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder / LOCK))
        except (
            LockedError,
            FileNotFoundError,
        ) as error:  # renamed by now
            raise _busy(folder) from error
        path = folder / PLAN
        if path.exists() and (different := _differences(read_json(path), plan)):
            raise UserError(
                f"{folder} holds the beginning of another token store ({different}): remove it, or "
                "name another --output"
            )
        write_json(path, plan)
        _remove_temporary(folder)
        yield folder
        _remove_temporary(folder)
        _sync(folder)
        folder.rename(output)
        (output / LOCK).unlink()
        _sync(output.parent)


def _busy(folder: Path) -> UserError:
    return UserError(
        f"another prepare_data is writing to {folder}: wait for its end, or name another --output"
    )


def _remove_temporary(folder: Path):
    """What a killed process was in the middle of."""
    for path in folder.rglob("*.tmp"):
        path.unlink(missing_ok=True)


def _sync(folder: Path):
    """Has the names in a folder written to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _differences(old: Plan, new: Plan) -> str:
    """As "num_shards: 64 there, 8 now; …"; empty if there is none."""
    before, after = dict(_flat(old)), dict(_flat(new))
    return "; ".join(
        f"{name}: {_shown(before.get(name))} there, {_shown(after.get(name))} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    )


def _flat(plan: Plan, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in json.loads(json.dumps(plan)).items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(value: Any) -> str:
    """Checksums are cut short."""
    return repr(value) if len(repr(value)) < 40 else f"{repr(value)[:9]}…'"
