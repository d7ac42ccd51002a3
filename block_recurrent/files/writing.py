"""Files that are written whole or not at all, and files that grow, on disk or in a bucket."""

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
    """A file to write to. Once the context ends well it stands at `path`; else nothing is left."""
    if in_bucket(path):
        file = io.BytesIO()
        yield file
        path.write_bytes(file.getvalue())  # objects are never there in part
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
    """Where to append to the files of a run's folder: on disk, the folder itself.

    Objects in a bucket cannot be appended to. There, `folder` is a temporary one on this machine,
    and `update` copies the files that have grown, each as a whole: an object is complete at every
    moment, and as old as the last copy.

    Args:
      workdir: the folder of the run.
      begin_with: files of it that are to be in `folder`, if they are there.
      clock: returns seconds, from any origin.
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
        """Copies, if the last copy is `least` seconds old."""
        if self._temporary is None or self._clock() - self._last < least:
            return
        self._last = self._clock()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.stat().st_size != self._copied.get(path):
                content = path.read_bytes()
                (self._workdir / path.relative_to(self.folder).as_posix()).write_bytes(content)
                self._copied[path] = len(content)

    def close(self):
        """Copies the rest; the files must be closed."""
        if self._temporary is not None:
            self.update(least=0)
            self._temporary.cleanup()
