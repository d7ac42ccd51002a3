"""What all commands share: parsing arguments, reporting errors, exit statuses."""

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
from block_recurrent.files.paths import workdir_path
from block_recurrent.freed_memory import keep_freed_memory

USER_ERROR_STATUS = 2
EXIT_STATUS = (
    "Exit status: 0 done, 2 a mistake in the command, the run or its data, which one line explains."
)


class CommandParser(argparse.ArgumentParser):
    """The arguments of ``python -m block_recurrent.COMMAND``. A mistake in them is a `UserError`.

    Args:
      command: its name.
      description: what it does; printed by --help, as are the rest.
      examples: indented command lines.
      notes: more to say, with the exit statuses.
    """

    def __init__(self, command: str, description: str, examples: str, notes: str = EXIT_STATUS):
        super().__init__(
            prog=f"python -m block_recurrent.{command}",
            description=description,
            epilog=f"{notes}\n\nexamples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str):
        raise UserError(f"{message} (--help lists all arguments)")


def run_main(main: Callable[[], int | None]):
    """Runs `main` and exits with its status; a `UserError` becomes one line and status 2."""
    # Orbax warns about what it was asked to do, and all of them raise the errors that they log.
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
    """Exits. One of several processes exits at once, without shutting down the others.

    They are waiting for it in a collective operation, which fails in them when it is gone.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def add_workdir_argument(
    parser: argparse._ActionsContainer,
    *,
    required: bool = False,
    description: str = "folder of the run",
):
    """Adds --workdir to a parser or a group of it."""
    parser.add_argument(
        "--workdir", type=_workdir, required=required, metavar="DIR", help=description
    )


def add_gin_arguments(parser: argparse.ArgumentParser, *, required: bool, example: str):
    """Adds --gin_file and --gin_bindings.

    Args:
      parser: to add them to.
      required: whether at least one file must be given.
      example: a binding, for --help.
    """
    parser.add_argument(
        "--gin_file",
        action="append",
        default=None if required else [],
        required=required,
        metavar="FILE",
        help="configuration file; can be given several times, and later files override earlier "
        "ones. Looked up in the current folder, then among the files included in the package",
    )
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help=f"sets a single parameter, such as {example}; overrides the files; can be given "
        "several times",
    )


def default_workdir(gin_files: list[str]) -> epath.Path:
    """runs/<name of the first gin file>."""
    return epath.Path("runs") / Path(gin_files[0]).stem


def _workdir(text: str) -> epath.Path:
    """`workdir_path`; argparse shows the message of this exception, and of no other."""
    try:
        return workdir_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
