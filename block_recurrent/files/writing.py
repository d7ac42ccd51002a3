"""Atomic writes, and appending to files, on disk or in a bucket."""

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

COPY_INTERVAL = 60  # seconds between two copies


@contextlib.contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """Opens a file for writing. It appears at `path` if the context ends without an exception."""
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
    """A folder whose files can be appended to, even if the run is in a bucket.

    On disk, `folder` is the run's folder. In a bucket, objects cannot be appended to. Then `folder`
    is a temporary folder on this machine, and `update` copies files that have grown to the bucket.
    Objects in the bucket are always complete copies, but not always the newest.

    Args:
      workdir: the folder of the run.
      initial_files: names of files that are copied from the bucket first, to append to them.
      clock: returns seconds since an arbitrary moment.

    Attributes:
      folder: where to write.
    """

    def __init__(
        self,
        workdir: AnyPath,
        initial_files: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self._workdir = Path(workdir), workdir
        self._clock, self._last = clock, -math.inf
        self._copied: dict[Path, int] = {}  # bytes of each file
        self._temporary = None
        if in_bucket(workdir):
            self._temporary = tempfile.TemporaryDirectory(prefix="block_recurrent_")
            self.folder = Path(self._temporary.name)
            for name in initial_files:
                if (workdir / name).exists():
                    (self.folder / name).write_bytes((workdir / name).read_bytes())

    def update(self, *, min_age: int = COPY_INTERVAL):
        """Copies to the bucket, if the last copy is at least `min_age` seconds old."""
        if self._temporary is None or self._clock() - self._last < min_age:
            return
        self._last = self._clock()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.stat().st_size != self._copied.get(path):
                content = path.read_bytes()
                (self._workdir / path.relative_to(self.folder).as_posix()).write_bytes(content)
                self._copied[path] = len(content)

    def close(self):
        """Copies to the bucket a last time. All files must be closed."""
        if self._temporary is not None:
            self.update(min_age=0)
            self._temporary.cleanup()
