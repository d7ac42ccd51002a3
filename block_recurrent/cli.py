"""What the command-line programs share."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from block_recurrent.errors import UserError

USER_ERROR_STATUS = 2


def run_main(main: Callable[[], int | None]):
    """Runs `main` and exits with its status; a `UserError` becomes one line and status 2."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what it was asked to do
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = USER_ERROR_STATUS
    sys.exit(status)


def default_workdir(gin_files: list[str]) -> Path:
    """runs/<name of the first gin file>."""
    return Path("runs") / Path(gin_files[0]).stem
