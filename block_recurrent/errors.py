"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake of the user: one line that names the thing and the mend.

    Command-line programs print it as ``error: …`` and exit with status 2.
    """
