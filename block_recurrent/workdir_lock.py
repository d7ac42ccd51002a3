"""One training a folder: the first one holds it as long as it lives."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import BinaryIO

from block_recurrent.distributed import is_first
from block_recurrent.errors import UserError
from block_recurrent.run_folder import AnyPath, in_bucket, reaching

LOCK = "lock"
# What file systems answer that know no locks, as some network mounts.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def held(workdir: AnyPath) -> Iterator[None]:
    """While entered, no other training can enter the folder; it is made if it is not there.

    The first of several processes holds it for all. The lock is the operating system's (flock on
    the file `lock`), and ends with the process, however that ends. Between hosts it counts where
    their file system carries locks, as NFS does unless it is mounted with nolock; a bucket has
    none.

    Raises:
      UserError: another training has the folder, or it cannot be written.
    """
    if not is_first() or in_bucket(workdir):
        yield
        return
    with reaching(workdir, "write to"):
        workdir.mkdir(parents=True, exist_ok=True)
        file = _locked(workdir)
    try:
        yield
    finally:
        (workdir / LOCK).unlink(missing_ok=True)
        file.close()


def _locked(workdir: AnyPath) -> BinaryIO:
    """The file, locked, and with its holder's name in it."""
    while True:
        file = open(workdir / LOCK, "a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            raise UserError(
                f"{workdir} is being trained in by {holder}: wait for its end or stop it, or name "
                "another --workdir"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(workdir / LOCK)):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        file.close()  # its holder has just ended, and taken it away
