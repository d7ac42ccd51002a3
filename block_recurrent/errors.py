"""`UserError`, for mistakes that the user can fix, and one-line forms of other exceptions."""

import errno
import os

DISK_FULL = errno.ENOSPC, errno.EDQUOT
CANNOT_WRITE = *DISK_FULL, errno.EFBIG, errno.EROFS


class UserError(ValueError):
    """A mistake that the user can fix. The message is one line: what is wrong and how to fix it.

    The commands print it as ``error: …`` and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Type and first line of an exception, as "ImportError: no such module"."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def cannot_write(error: BaseException) -> str | None:
    """Why the disk refused a write, as "No space left on device"; None for any other error.

    Libraries wrap the operating system's error in their own exceptions, but quote its message.
    """
    reasons = map(os.strerror, CANNOT_WRITE)
    return next((reason for reason in reasons if reason in str(error)), None)
