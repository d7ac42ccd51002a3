"""A lock file that keeps two processes from writing to the same folder."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import BinaryIO

from block_recurrent.files.paths import AnyPath

# Errors of file systems without locks, such as some network mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(Exception):
    """Another process holds the lock. The message names it: "process 17 on host"."""


@contextlib.contextmanager
def file_lock(path: AnyPath) -> Iterator[None]:
    """Holds the lock inside the context. Meanwhile the file exists and names this process.

    The lock is the operating system's (flock), which releases it when the process ends, however it
    ends. It works between hosts if their file system supports locks, as NFS does unless mounted
    with nolock. On a file system without locks there is none.

    Args:
      path: of the lock file, on disk.

    Raises:
      LockedError: another process holds it.
      OSError: the file cannot be written.
    """
    file = _locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _locked(path: AnyPath) -> BinaryIO:
    """The open file, locked, with the name of this process in it."""
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
