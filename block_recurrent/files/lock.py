"""A lock file, so that no two processes write to one folder."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# What file systems without locks answer, such as some network mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(Exception):
    """Another process holds the lock; the message names it, as "process 17 on host"."""


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds the lock while entered. The file exists, and names this process, for as long.

    The lock is the operating system's (flock), and ends with the process, however that ends.
    Between hosts it holds where their file system carries locks, as NFS does unless it is mounted
    with nolock.

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


def _locked(path: Path) -> BinaryIO:
    """The file, locked, and with its holder's name in it."""
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
        file.close()  # its holder has just ended, and removed it
