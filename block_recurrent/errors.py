"""The exception for mistakes of the user, and other exceptions in one line."""

import errno
import os


class UserError(ValueError):
    """A mistake of the user: one line that names the problem and how to fix it.

    Command-line programs print it as ``error: …`` and exit with status 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception, with its type: "ImportError: no such module"."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def cannot_write(error: BaseException) -> str | None:
    """Why a file could not be written, if the error of some library says so; else None."""
    numbers = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS
    return next((why for why in map(os.strerror, numbers) if why in str(error)), None)
