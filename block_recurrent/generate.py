"""Writes on after a prompt: ``python -m block_recurrent.generate --workdir=DIR --prompt='…'``."""

import argparse
import os
import signal
import sys
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, TaskProgressColumn

from block_recurrent.config.options import DataConfig
from block_recurrent.console.cli import EXIT_STATUS, run_main
from block_recurrent.console.progress import start_bar
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.vocabularies import END, ByteVocabulary, Vocabulary, encode_prompt
from block_recurrent.errors import UserError
from block_recurrent.files.paths import workdir_path
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.saved_state import load_state, save_state
from block_recurrent.generation.text_stream import TextStream
from block_recurrent.interop.model_file import load_model
from block_recurrent.training.workdir import load_run

PRETRAINED = Path(__file__).parent / "pretrained" / "stdlib.safetensors"
READ_BETWEEN_FRAMES = 1 << 16  # tokens of a prompt

EPILOG = f"""\
The text goes to standard output as it comes, and nothing else does. It ends after --num_tokens, or
where the model ends the document.
{EXIT_STATUS}

examples:
  python -m block_recurrent.generate --prompt='def main('
  python -m block_recurrent.generate --workdir=runs/brt_fixed_gate --prompt='def main('
  python -m block_recurrent.generate --workdir=runs/brt_fixed_gate --prompt_file=book.txt \\
      --num_tokens=0 --save_state=book.npz
  python -m block_recurrent.generate --workdir=runs/brt_fixed_gate --state=book.npz --seed=1
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m block_recurrent.generate",
        description="Writes on after a prompt: with the newest checkpoint of a run, with a model "
        "of a file, or\nwith the small one that comes with the package and knows Python.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--workdir", type=workdir_path, metavar="DIR", help="the run")
    model.add_argument(
        "--model",
        type=Path,
        default=PRETRAINED,
        metavar="FILE",
        help="a file of python -m block_recurrent.export",
    )
    add("--prompt", metavar="TEXT", help="what to go on from; '' begins a document")
    add("--prompt_file", type=Path, metavar="FILE", help="the same, from a file of any length")
    add("--num_tokens", type=int, default=256, metavar="N", help="to write (default: %(default)s)")
    add(
        "--temperature",
        type=float,
        default=1.0,
        metavar="T",
        help="divides the logits; 0 takes the likeliest token (default: %(default)s)",
    )
    add("--top_k", type=int, metavar="K", help="only the K likeliest tokens")
    add("--top_p", type=float, metavar="P", help="only the likeliest tokens of probability P")
    add("--seed", type=int, default=0, metavar="S", help="the same text again (default: 0)")
    add("--state", type=Path, metavar="FILE", help="go on from a saved state, before the prompt")
    add("--save_state", type=Path, metavar="FILE", help="save the state after the text (.npz)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    sampling = Sampling(arguments.temperature, arguments.top_k, arguments.top_p)
    prompt = read_prompt(arguments)
    check_numbers(arguments)
    generator, vocabulary = load_generator(arguments)
    tokens = encode_prompt(prompt, vocabulary, "the prompt")
    state = load_state(arguments.state, generator) if arguments.state else generator.start()
    state = read(generator, state, tokens)
    text = TextStream(vocabulary, np.asarray(state.block)[0, : int(state.unread[0]) + 1])
    pieces = generator.stream(
        state, arguments.num_tokens, sampling=sampling, seed=arguments.seed, stop_tokens=(END,)
    )
    for piece in pieces:
        write(text.add(piece.tokens[0]))
        state = piece.state
    write(text.end())
    if arguments.save_state:
        save_state(arguments.save_state, state, generator)


def read_prompt(arguments: argparse.Namespace) -> bytes:
    """The prompt of either option; none is needed to go on from a state."""
    text, path = arguments.prompt, arguments.prompt_file
    if text is not None and path is not None:
        raise UserError("--prompt and --prompt_file: give one of them")
    if path is not None:
        try:
            prompt = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read --prompt_file={path} ({error.strerror})") from error
        if not prompt:
            raise UserError(f"--prompt_file={path} is empty: to begin a document give --prompt=''")
        return prompt
    if text is None and not arguments.state:
        raise UserError("no prompt: give --prompt or --prompt_file, or go on from a --state")
    return os.fsencode(text or "")


def check_numbers(arguments: argparse.Namespace):
    if arguments.num_tokens < 0:
        raise UserError(f"--num_tokens={arguments.num_tokens}: give a number from 0")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed={arguments.seed}: give a number from 0 and below 2**32")
    save = arguments.save_state
    if save and not save.parent.is_dir():
        raise UserError(f"no folder {save.parent} for --save_state={save}: make it")
    if save and save.is_dir():
        raise UserError(f"--save_state={save} is a folder: name a file")


def vocabulary_of(data: DataConfig) -> Vocabulary:
    """The one that the model learnt. For bytes the corpus need not be at hand."""
    if data.vocabulary == ByteVocabulary.name:
        return ByteVocabulary()
    return load_documents(data)["train"].vocabulary


def load_generator(arguments: argparse.Namespace) -> tuple[Generator, Vocabulary]:
    """The model that was asked for, and its vocabulary."""
    if arguments.workdir:
        config, model, _ = load_run(arguments.workdir)
        vocabulary, segment_length = vocabulary_of(config.data), config.train.segment_length
    else:
        model, about = load_model(arguments.model)
        if about.get("vocabulary") != ByteVocabulary.name:
            raise UserError(
                f"{arguments.model} is no model of bytes, and holds no other vocabulary: generate "
                "from its run by --workdir"
            )
        vocabulary, segment_length = ByteVocabulary(), int(about.get("segment_length", 0))
    return Generator(model, segment_length=segment_length), vocabulary


def read(generator: Generator, state: DecodingState, tokens: np.ndarray) -> DecodingState:
    """The state after the prompt; a long one shows in a terminal how far it is."""
    bar = start_bar(sys.stderr, TaskProgressColumn(), BarColumn(20), total=len(tokens))
    for first in range(0, len(tokens), READ_BETWEEN_FRAMES):
        state = generator.read(state, [tokens[first : first + READ_BETWEEN_FRAMES]])
        if bar:
            state.length.block_until_ready()
            done = min(first + READ_BETWEEN_FRAMES, len(tokens))
            bar.update(bar.task_ids[0], completed=done, numbers=f"{done:,} tokens read")
    if bar:
        bar.stop()
    return state


def write(text: str):
    """UTF-8, whatever the terminal's encoding."""
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C, or a reader such as head that leaves
        signal.signal(number, signal.SIG_DFL)
    run_main(main)
