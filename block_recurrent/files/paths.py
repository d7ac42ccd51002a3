"""Paths of a run's folder, on disk or in a bucket of Google Cloud Storage."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from block_recurrent.errors import UserError, first_line

AnyPath = Path | epath.Path  # they have the same methods


def workdir_path(path: str | AnyPath) -> epath.Path:
    """The path of a run's folder.

    Args:
      path: a path on disk, where a leading '~' is the home folder, or gs://bucket/run.

    Raises:
      UserError: the path is neither, or gcsfs is not installed.
    """
    scheme = re.match(r"[a-z0-9]+://", os.fspath(path))
    if scheme and not re.match("gs://[^/]", os.fspath(path)):
        raise UserError(f"{path} cannot hold a run: name a folder on disk, or gs://bucket/run")
    if scheme and importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{path} needs gcsfs: pip install gcsfs (or this package with its extra [gcs])"
        )
    return epath.Path(os.path.expanduser(path))


def local_path(text: str | Path) -> Path:
    """A path on disk, in which a leading '~' is the home folder.

    Shells leave the '~' in ``--output=~/file`` as it is, because it does not begin a word.
    """
    return Path(os.path.expanduser(text))


def in_bucket(path: str | AnyPath) -> bool:
    """Whether the path is in a bucket."""
    return os.fspath(path).startswith("gs://")


def is_url(path: str) -> bool:
    """Whether a path names a place that is not on disk, such as gs://bucket/folder."""
    return re.match(r"[a-z][a-z0-9+.-]*://", path) is not None


@contextlib.contextmanager
def explain_path_errors(workdir: AnyPath, verb: str) -> Iterator[None]:
    """Turns file errors (no permission, full disk, no such bucket) into a `UserError`.

    Args:
      workdir: the folder of the run.
      verb: what the code in the context does to the folder, for the message, such as "write to".

    Raises:
      UserError: the folder cannot be accessed.
    """
    # The client of a bucket raises its own exceptions, which are not OSErrors.
    errors = Exception if in_bucket(workdir) else OSError
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        fix = "name another --workdir"
        if in_bucket(workdir):
            missing = isinstance(error, FileNotFoundError)
            reason = "no such bucket" if missing else first_line(error)
            fix += ", or see 'Buckets' in docs/scaling.md for what a bucket needs"
        raise UserError(f"cannot {verb} {workdir} ({reason}): {fix}") from error
