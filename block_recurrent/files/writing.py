"""Atomic writes, and files to append to, on disk or in a bucket."""

import contextlib
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from block_recurrent.files.paths import AnyPath, in_bucket

INTERVAL = 60  # seconds between two copies


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """A file to write to. It appears at `path` when the context ends without an exception."""
    if in_bucket(path):
        file = io.BytesIO()
        yield file
        path.write_bytes(file.getvalue())  # objects are written atomically
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Mirror:
    """A folder for files to append to, even if the run's folder is in a bucket.

    On disk, `folder` is the run's folder itself. Objects in a bucket cannot be appended to: there
    `folder` is a temporary folder on this machine, and `update` copies every file that has grown.
    An object in the bucket is always complete, and as old as the last copy.

    Args:
      workdir: the folder of the run.
      begin_with: names of existing files of the run that appending continues.
      clock: returns seconds since an arbitrary moment.
    """

    def __init__(
        self,
        workdir: AnyPath,
        begin_with: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self._workdir = Path(workdir), workdir
        self._clock, self._last = clock, -math.inf
        self._copied: dict[Path, int] = {}  # bytes of each file
        self._temporary = None
        if in_bucket(workdir):
            self._temporary = tempfile.TemporaryDirectory(prefix="block_recurrent_")
            self.folder = Path(self._temporary.name)
            for name in begin_with:
                if (workdir / name).exists():
                    (self.folder / name).write_bytes((workdir / name).read_bytes())

    def update(self, *, least: int = INTERVAL):
        """Copies to the bucket, if the last copy is at least `least` seconds old."""
        if self._temporary is None or self._clock() - self._last < least:
            return
        self._last = self._clock()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.stat().st_size != self._copied.get(path):
                content = path.read_bytes()
                (self._workdir / path.relative_to(self.folder).as_posix()).write_bytes(content)
                self._copied[path] = len(content)

    def close(self):
        """Copies what is new since the last copy; the files must be closed."""
        if self._temporary is not None:
            self.update(least=0)
            self._temporary.cleanup()
