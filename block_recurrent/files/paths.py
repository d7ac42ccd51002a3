"""Where a run's folder lies: on disk, or in a bucket of Google Cloud Storage."""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from block_recurrent.errors import UserError, first_line

AnyPath = Path | epath.Path  # both have the methods of `pathlib.Path` that are used here


def workdir_path(path: str | AnyPath) -> epath.Path:
    """The folder of that name.

    Args:
      path: on disk, or gs://bucket/run.

    Raises:
      UserError: it is in a bucket and the package that reads and writes there is not installed, or
        it is somewhere else.
    """
    scheme = re.match(r"[a-z0-9]+://", os.fspath(path))
    if scheme and not re.match("gs://[^/]", os.fspath(path)):
        raise UserError(f"{path} is no place for a run: name a folder on disk, or gs://bucket/run")
    if scheme and importlib.util.find_spec("gcsfs") is None:
        raise UserError(
            f"{path} needs gcsfs: pip install gcsfs (or this package with its extra [gcs])"
        )
    return epath.Path(path)


def in_bucket(path: str | AnyPath) -> bool:
    """Whether it is an object, not a file."""
    return os.fspath(path).startswith("gs://")


@contextlib.contextmanager
def explain_path_errors(workdir: AnyPath, verb: str) -> Iterator[None]:
    """Says in one line that the folder cannot be reached: no bucket, no permission, a full disk.

    Args:
      workdir: the folder.
      verb: what is being done with it.

    Raises:
      UserError: what is done in the context fails for a reason that lies with the folder.
    """
    # Clients of a bucket have errors of their own, which are no OSErrors, for each way to fail.
    errors = Exception if in_bucket(workdir) else OSError
    try:
        yield
    except errors as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        mend = "name another --workdir"
        if in_bucket(workdir):
            missing = isinstance(error, FileNotFoundError)
            reason = "no such bucket" if missing else first_line(error)
            mend += ", or see what a bucket asks for under 'Buckets' in docs/scaling.md"
        raise UserError(f"cannot {verb} {workdir} ({reason}): {mend}") from error
