"""Serve a model over HTTP: ``python -m block_recurrent.serve --workdir=DIR``."""

import argparse
import contextlib
import dataclasses
import re
import signal
import tempfile
from pathlib import Path

from block_recurrent.console.cli import (
    CommandParser,
    add_checkpoint_arguments,
    add_model_arguments,
    run_main,
)
from block_recurrent.errors import UserError
from block_recurrent.files.paths import local_path
from block_recurrent.generate import load_generator
from block_recurrent.interop.model_file import PRETRAINED
from block_recurrent.serving.limits import Limits

DESCRIPTION = """\
Serves a checkpoint of a run or a model file over HTTP: OpenAI's completions API, and sessions of
constant size for long documents. Its page at / shows what the memory does in a text. By default,
serves the small model included in the package, and only to programs on this machine."""
NOTES = """\
Ctrl-C or SIGTERM stops the server: it finishes the requests that have begun, and writes the
sessions to --sessions. A second Ctrl-C ends these requests as well.
Exit status: 0 stopped, 2 a mistake in the command, the run or its data, which one line explains,
130 Ctrl-C before the server was ready."""
EXAMPLES = """\
  python -m block_recurrent.serve
  python -m block_recurrent.serve --workdir=runs/brt_fixed_gate --sessions=sessions --port=8000
  python -m block_recurrent.serve --model=model.safetensors --host=0.0.0.0 --token_file=token
"""
LIMITS = {
    "rows": "continuations generated at the same time; the others wait",
    "max_requests": "requests at the same time, including those that wait",
    "max_body": "bytes of a request",
    "max_prompt_tokens": "tokens of all prompts of a request, and of an answer with echo or scores",
    "max_tokens": "tokens of a continuation",
    "max_seconds": "seconds for a request, including its waiting",
    "max_sessions": "sessions, in memory or on disk",
    "device_sessions": "idle sessions on the device; the others are on disk only",
    "cache_bytes": "bytes of states after the beginnings of prompts (the prefix cache)",
}


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser("serve", DESCRIPTION, EXAMPLES, NOTES)
    add = parser.add_argument
    add_model_arguments(parser, PRETRAINED)
    add_checkpoint_arguments(parser)
    add(
        "--name",
        metavar="NAME",
        help="the model's name for clients (default: the name of its folder or file)",
    )
    add(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="port to listen at; 0 is any free port (default: %(default)s)",
    )
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen at; one that other machines can reach needs --token_file "
        "(default: %(default)s)",
    )
    add(
        "--token_file",
        type=local_path,
        metavar="FILE",
        help="file with the token that clients must send as their API key",
    )
    add(
        "--sessions",
        type=local_path,
        metavar="DIR",
        help="folder of the sessions (default: a temporary folder, removed at the end)",
    )
    for field in dataclasses.fields(Limits):
        add(
            f"--{field.name}",
            type=int,
            default=field.default,
            metavar="N",
            help=f"at most this many {LIMITS[field.name]} (default: %(default)s)",
        )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    try:
        from block_recurrent.serving.gate import is_loopback, read_token
        from block_recurrent.serving.server import Server, listen
    except ModuleNotFoundError as error:
        raise UserError(
            f"serving needs {error.name}: install this package with its extra [serve], as in "
            "pip install -e '.[serve]'"
        ) from error
    token = read_token(arguments.token_file) if arguments.token_file else None
    if token is None and not is_loopback(arguments.host):
        raise UserError(
            f"--host={arguments.host} can be reached from other machines: give a --token_file, "
            "or leave out --host"
        )
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(arguments.host, arguments.port))
        service = make_service(arguments, stack)
        server = Server(service, listener, token)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, server.stop)
        address, port = listener.getsockname()[:2]
        address = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
        has_page = bool(service.generator.config.recurrent_layers)
        page = f" and, for browsers, {address}/" if has_page else ""
        print(f"serving {service.name} at {address}/v1{page}", flush=True)
        server.run()


def make_service(arguments: argparse.Namespace, stack: contextlib.ExitStack):
    """The chosen model, ready to answer, with the sessions in its folder."""
    from block_recurrent.serving.service import Service
    from block_recurrent.serving.session_files import SessionFiles

    limits = Limits(**{name: getattr(arguments, name) for name in LIMITS})
    folder = arguments.sessions or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    generator, vocabulary = load_generator(arguments)
    files = stack.enter_context(SessionFiles(folder, generator).opened())
    name = arguments.name or default_name(arguments)
    service = Service(name, generator, vocabulary, files, limits)
    service.engine.warm_up()
    return service


def default_name(arguments: argparse.Namespace) -> str:
    """The name of the run's folder or of the model's file, of characters that suit an address."""
    name = Path(arguments.workdir).name if arguments.workdir else arguments.model.stem
    return re.sub(r"[^\w.-]+", "-", name) or "model"


if __name__ == "__main__":
    run_main(main)
