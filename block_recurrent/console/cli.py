"""Code shared by all commands: arguments, error reports and exit statuses."""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from etils import epath

from block_recurrent.errors import UserError
from block_recurrent.files.paths import local_path, workdir_path
from block_recurrent.freed_memory import keep_freed_memory

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # of shells: 128 + SIGINT
EXIT_STATUSES = (
    "Exit status: 0 done, 2 a mistake in the command, the run or its data, which one line "
    "explains,\n130 stopped by Ctrl-C."
)


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of ``python -m block_recurrent.COMMAND``. Mistakes raise `UserError`.

    Args:
      command: name of the command.
      description: what the command does, for --help.
      examples: indented command lines, for --help.
      notes: notes and exit statuses, for --help.
    """

    def __init__(self, command: str, description: str, examples: str, notes: str = EXIT_STATUSES):
        super().__init__(
            prog=f"python -m block_recurrent.{command}",
            description=description,
            epilog=f"{notes}\n\nexamples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str):
        raise UserError(f"{message} (--help lists all arguments)")


def run_main(main: Callable[[], int | None]):
    """Runs `main` and exits with its status. A `UserError` or a Ctrl-C becomes one line."""
    # Orbax warns about options that are set on purpose, and all three raise the errors they log.
    for name in ("absl", "asyncio", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    keep_freed_memory()
    try:
        status = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        exit_process(USER_ERROR_STATUS)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        exit_process(INTERRUPTED_STATUS)
    except Exception:
        traceback.print_exc()
        exit_process(1)
    sys.exit(status)


def exit_process(status: int):
    """Exits with a status. One of several processes exits at once, without JAX's shutdown.

    JAX's shutdown would wait for the other processes, which wait for this one in a collective
    operation. When this process is gone, that operation fails in the others.
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
    """Adds --workdir to a parser or an argument group."""
    parser.add_argument(
        "--workdir", type=workdir_argument, required=required, metavar="DIR", help=description
    )


def add_model_arguments(parser: argparse.ArgumentParser, default: Path):
    """Adds --workdir and --model, which exclude each other; `default` is the model of neither."""
    model = parser.add_mutually_exclusive_group()
    add_workdir_argument(model)
    model.add_argument(
        "--model",
        type=local_path,
        default=default,
        metavar="FILE",
        help="a file or folder written by python -m block_recurrent.export, or the name of a "
        "repository on the Hugging Face Hub, OWNER/NAME (extra [hub]); default: the small model "
        "included in the package",
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser, *, average: bool = True):
    """Adds what chooses a checkpoint of a run and its weights, and where its corpus lies now.

    Args:
      parser: the parser to add them to.
      average: whether the command can take the mean of several checkpoints.
    """
    parser.add_argument(
        "--gin_bindings",
        action="append",
        default=[],
        metavar="BINDING",
        help='where the corpus of the run lies now, if it has moved, such as "data.path = '
        "'moved/texts'\" or \"data.stores = ('moved/store',)\"; can be given several times",
    )
    parser.add_argument(
        "--step",
        type=_step,
        default="latest",
        metavar="N|best|latest",
        help="which checkpoint: after N steps, the best one by the evaluations of the run "
        "(train.best_metric), or the newest one (default: latest)",
    )
    parser.add_argument(
        "--weights",
        choices=("raw", "averaged"),
        default="raw",
        help="the weights after that step, or their moving average (train.average_decay) "
        "(default: raw)",
    )
    if average:
        parser.add_argument(
            "--average",
            type=int,
            default=1,
            metavar="K",
            help="use the mean of the weights of K checkpoints: that of --step, and the K - 1 "
            "before it (default: 1)",
        )


def chosen_weights(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the arguments of a command choose of a run, as keyword arguments of `load_run`."""
    names = ("step", "weights", "average")
    chosen = {name: getattr(arguments, name) for name in names}
    return chosen | {"bindings": arguments.gin_bindings}


def add_gin_arguments(parser: argparse.ArgumentParser, *, required: bool, example: str):
    """Adds --gin_file and --gin_bindings.

    Args:
      parser: the parser to add them to.
      required: whether at least one file must be given.
      example: example of a binding, for --help.
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


def check_output(option: str, path: Path | None, suffix: str = ""):
    """Raises UserError if the file that --option names cannot be written, or lacks the suffix."""
    if path and not path.parent.is_dir():
        raise UserError(f"no folder {path.parent} for --{option}={path}: create it first")
    if path and path.is_dir():
        raise UserError(f"--{option}={path} is a folder: give the path of a file")
    if path and not path.name.endswith(suffix):
        raise UserError(f"--{option}={path}: give a file name that ends in {suffix}")


def default_workdir(gin_files: list[str]) -> epath.Path:
    """The default folder of a run: runs/<name of the first gin file>."""
    return epath.Path("runs") / Path(gin_files[0]).stem


def _step(text: str) -> int | str:
    """A number of steps, or one of the two words."""
    if text in ("best", "latest"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no step: give a number, best or latest")


def workdir_argument(text: str) -> epath.Path:
    """`workdir_path`, but with the only exception whose message argparse shows."""
    try:
        return workdir_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
