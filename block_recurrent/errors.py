"""`UserError`, for mistakes that the user can fix, and one-line descriptions of other errors."""

import errno
import os

DISK_FULL = errno.ENOSPC, errno.EDQUOT
WRITE_ERRORS = *DISK_FULL, errno.EFBIG, errno.EROFS


class UserError(ValueError):
    """A mistake that the user can fix. The message is one line: what is wrong and how to fix it.

    The commands print it as ``error: …`` and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """Type and first line of an exception, such as "ImportError: no such module"."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def write_error_reason(error: BaseException) -> str | None:
    """Why a write failed, such as "No space left on device"; None for any other error.

    Searches the message, because libraries wrap the operating system's error in exceptions of other
    types and quote its message.
    """
    reasons = map(os.strerror, WRITE_ERRORS)
    return next((reason for reason in reasons if reason in str(error)), None)
