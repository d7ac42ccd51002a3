"""Continue a prompt: ``python -m block_recurrent.generate --workdir=DIR --prompt='…'``."""

import argparse
import codecs
import os
import signal
import sys
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, TaskProgressColumn

from block_recurrent.console.cli import (
    EXIT_STATUSES,
    CommandParser,
    add_checkpoint_arguments,
    add_model_arguments,
    check_output,
    chosen_weights,
    run_main,
)
from block_recurrent.console.progress import start_bar
from block_recurrent.data.content import recognise
from block_recurrent.data.vocabularies import Vocabulary, encode_prompt
from block_recurrent.data.vocabulary_storage import model_vocabulary
from block_recurrent.errors import UserError
from block_recurrent.files.paths import local_path
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.saved_state import load_context, load_state, save_state
from block_recurrent.generation.text_stream import TextStream
from block_recurrent.interop.model_file import PRETRAINED, load_model
from block_recurrent.training.workdir import load_run, run_vocabulary

READ_BETWEEN_UPDATES = 1 << 16  # prompt tokens between two updates of the progress bar

NOTES = f"""\
The generated text is streamed to standard output, and nothing else is printed there. Generation
ends after --num_tokens tokens, or when the model ends the document. If there is no text at all, a
line on standard error says why.
{EXIT_STATUSES}"""
EXAMPLES = """\
  python -m block_recurrent.generate --prompt='def main('
  python -m block_recurrent.generate --workdir=runs/brt_fixed_gate --prompt='def main('
  python -m block_recurrent.generate --workdir=runs/brt_fixed_gate --prompt_file=book.txt \\
      --num_tokens=0 --save_state=book.safetensors
  python -m block_recurrent.generate --workdir=runs/brt_fixed_gate --state=book.safetensors --seed=1
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "generate",
        "Continues a prompt, with a checkpoint of a run or with a model file. By "
        "default,\nuses the small model included in the package, trained on Python source code.",
        EXAMPLES,
        NOTES,
    )
    add = parser.add_argument
    add_model_arguments(parser, PRETRAINED)
    add_checkpoint_arguments(parser)
    add("--prompt", metavar="TEXT", help="the text to continue; '' starts a new document")
    add(
        "--prompt_file",
        type=local_path,
        metavar="FILE",
        help="read the prompt from a file of any length; - is standard input",
    )
    add(
        "--num_tokens",
        type=int,
        default=256,
        metavar="N",
        help="maximum number of tokens to generate (default: %(default)s)",
    )
    add(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="divides the logits; 0 always takes the most likely token (default: %(default)s)",
    )
    add("--top_k", type=int, metavar="K", help="sample from the K most likely tokens only")
    add(
        "--top_p",
        type=float,
        metavar="P",
        help="sample from the smallest set of most likely tokens with total probability at least P",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="the same seed gives the same text (default: %(default)s)",
    )
    add(
        "--state",
        type=local_path,
        metavar="FILE",
        help="start from a saved state; a prompt, if given, is read after it",
    )
    add(
        "--save_state",
        type=local_path,
        metavar="FILE",
        help="save the state after the text to this file (.safetensors)",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    prompt = read_prompt(arguments)
    check_numbers(arguments)
    generator, vocabulary = load_generator(arguments)
    tokens = encode_prompt(prompt, vocabulary, "the prompt")
    if arguments.state:
        state = load_state(arguments.state, generator)
        before = load_context(arguments.state, state)
    else:
        state, before = generator.start(), []
    state = read_tokens(generator, state, tokens)
    text = TextStream(vocabulary, [*before, *tokens.tolist()])
    pieces = generator.stream(
        state,
        arguments.num_tokens,
        sampling=sampling,
        seed=arguments.seed,
        stop_tokens=(vocabulary.end_id,),
    )
    first, is_empty = None, True
    for piece in pieces:
        first = piece.tokens[0][0] if first is None else first
        is_empty &= not write(text.add(piece.tokens[0]))
        state = piece.state
    if arguments.save_state:
        save_state(arguments.save_state, state, generator, text.context)
    rest = text.end()
    if not arguments.save_state:
        write(rest)
    if is_empty and not rest and first is not None:
        is_end = first == vocabulary.end_id
        why = "ended the document at once" if is_end else "wrote only special tokens"
        print(f"no text: the model {why}; try another --seed or another prompt", file=sys.stderr)


def read_prompt(arguments: argparse.Namespace) -> bytes:
    """The prompt from --prompt or --prompt_file; optional if --state is given."""
    text, path = arguments.prompt, arguments.prompt_file
    if text is not None and path is not None:
        raise UserError("--prompt and --prompt_file exclude each other: give one of them")
    if path is not None:
        return read_prompt_file(path)
    if text is None and not arguments.state:
        raise UserError("no prompt: give --prompt or --prompt_file, or continue from a --state")
    return os.fsencode(text or "")


def read_prompt_file(path: Path) -> bytes:
    """The prompt from a file, without a byte-order mark, or from standard input if it is -."""
    try:
        with open(0 if path == Path("-") else path, "rb") as file:
            prompt = file.read().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise UserError(f"cannot read --prompt_file={path} ({error.strerror})") from error
    if not prompt:
        raise UserError(f"--prompt_file={path} is empty: to begin a new document, give --prompt=''")
    try:
        prompt.decode()
    except UnicodeDecodeError as error:
        content = recognise(prompt)
        encoding = content.name if content.kind == "encoded" else "LATIN1"
        raise UserError(
            f"--prompt_file={path} is not UTF-8 (byte {error.start + 1:,} is "
            f"0x{prompt[error.start]:02x}): convert it, for example with iconv -f {encoding} "
            "-t UTF-8"
        ) from error
    return prompt


def check_numbers(arguments: argparse.Namespace):
    if arguments.gin_bindings and not arguments.workdir:
        raise UserError("--gin_bindings says where the corpus of a run lies: give its --workdir")
    if arguments.num_tokens < 0:
        raise UserError(f"--num_tokens={arguments.num_tokens}: give 0 or more")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed={arguments.seed}: give a number from 0 to 2**32 - 1")
    check_output("save_state", arguments.save_state)


def load_generator(arguments: argparse.Namespace) -> tuple[Generator, Vocabulary]:
    """The generator for the chosen model, and the model's vocabulary."""
    if arguments.workdir:
        config, model, _ = load_run(arguments.workdir, **chosen_weights(arguments))
        vocabulary = run_vocabulary(arguments.workdir, config.data)
        segment_length = config.train.segment_length
    else:
        chosen = arguments.step, arguments.weights, arguments.average
        if chosen != ("latest", "raw", 1):
            raise UserError(
                "--step, --weights and --average need --workdir: a model file has one set of "
                "weights"
            )
        model, about = load_model(arguments.model)
        vocabulary = model_vocabulary(arguments.model, about)
        segment_length = int(about.get("segment_length", 0))
    return Generator(model, segment_length=segment_length), vocabulary


def read_tokens(generator: Generator, state: DecodingState, tokens: np.ndarray) -> DecodingState:
    """Read the prompt, with a progress bar in a terminal, and return the state after it."""
    bar = start_bar(sys.stderr, TaskProgressColumn(), BarColumn(20), total=len(tokens))
    try:
        for first in range(0, len(tokens), READ_BETWEEN_UPDATES):
            state = generator.read(state, [tokens[first : first + READ_BETWEEN_UPDATES]])
            if bar:
                state.length.block_until_ready()
                done = min(first + READ_BETWEEN_UPDATES, len(tokens))
                bar.update(bar.task_ids[0], completed=done, numbers=f"{done:,} tokens read")
    finally:
        if bar:
            bar.stop()
    return state


def write(text: str) -> bool:
    """Write to standard output as UTF-8, regardless of the terminal's encoding.

    Returns whether there was any text.
    """
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
    return bool(text)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a closed pipe
    run_main(main)
