"""What the command-line programs share."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
from etils import epath

from block_recurrent.errors import UserError
from block_recurrent.freed_memory import keep_freed_memory

USER_ERROR_STATUS = 2
EXIT_STATUS = (
    "Exit status: 0 done, 2 a mistake in the command, the run or its data: one line says which."
)


def run_main(main: Callable[[], int | None]):
    """Runs `main` and exits with its status; a `UserError` becomes one line and status 2."""
    # Orbax warns of what it was asked to do, and all of them raise the errors that they log.
    for name in ("absl", "asyncio", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    keep_freed_memory()
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        leave(USER_ERROR_STATUS)
    except Exception:
        traceback.print_exc()
        leave(1)
    sys.exit(status)


def leave(status: int):
    """Exits; one of several processes at once, without waiting for the others to end well.

    They wait for this one in some collective operation. When it is gone, that fails in them too.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def add_gin_arguments(parser: argparse.ArgumentParser, *, required: bool, example: str):
    """--gin_file and --gin_bindings.

    Args:
      parser: gets them.
      required: whether at least one file must be named.
      example: of a binding.
    """
    parser.add_argument(
        "--gin_file",
        action="append",
        default=None if required else [],
        required=required,
        metavar="FILE",
        help="configuration; later files override earlier ones. Looked up in the current folder, "
        "then among the files that come with the package",
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help=f"a single parameter, as {example}; overrides the files",
    )


def default_workdir(gin_files: list[str]) -> epath.Path:
    """runs/<name of the first gin file>."""
    return epath.Path("runs") / Path(gin_files[0]).stem
