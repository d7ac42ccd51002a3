"""A lock file that keeps two processes from writing to the same folder."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import BinaryIO

from block_recurrent.files.paths import AnyPath

# Errors on file systems that do not support locks, such as some network mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(Exception):
    """Another process holds the lock. The message names it: "process 17 on host"."""


@contextlib.contextmanager
def file_lock(path: AnyPath) -> Iterator[None]:
    """Holds a lock inside the context. The lock file contains the name of this process.

    Uses flock, which the operating system releases when the process exits for any reason. It works
    between hosts if their file system supports locks, as NFS does unless mounted with nolock. On a
    file system without locks, nothing is locked.

    Args:
      path: path of the lock file, on disk.

    Raises:
      LockedError: another process holds the lock.
      OSError: the file cannot be written.
    """
    file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: AnyPath) -> BinaryIO:
    """Opens and locks the file, and writes the name of this process to it."""
    while True:
        file = open(path, "a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode(errors="replace")
            file.close()
            raise LockedError(holder or "another process") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        file.close()  # another process has just released the lock and removed the file
