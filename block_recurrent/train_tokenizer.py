"""Train a tokenizer: ``python -m block_recurrent.train_tokenizer --gin_file=… --output=FILE``."""

import argparse
import signal
import sys
from collections.abc import Iterable, Iterator

from rich.progress import BarColumn, TaskProgressColumn

from block_recurrent.config.run_config import load_prepare
from block_recurrent.console.cli import CommandParser, add_gin_arguments, run_main
from block_recurrent.console.progress import start_bar
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.text_sample import sample_text
from block_recurrent.data.vocabulary_storage import load_vocabulary
from block_recurrent.data.vocabulary_training import train_bpe, train_unigram
from block_recurrent.errors import UserError
from block_recurrent.files.paths import local_path
from block_recurrent.files.writing import atomic_write

SUFFIXES = {"bpe": ".json", "unigram": ".model"}
OWN_NAMES = ("<|endoftext|>", "<pad>", "</s>", "<unk>")  # of the tokens that are always there
MEASURED_BYTES = 2**20  # of the sample, for the number of bytes per token

EXAMPLES = """\
  python -m block_recurrent.train_tokenizer --gin_file=gin/data/text_files.gin \\
      --gin_bindings="data.path = 'my/folder'" --size=16_000 --output=tokenizer.json
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "train_tokenizer",
        "Trains a vocabulary on the training documents of a corpus, for prepare.vocabulary. Every "
        "text\ncomes back from its tokens, byte by byte if it is UTF-8.",
        EXAMPLES,
    )
    add_gin_arguments(parser, required=False, example="\"data.path = 'my/folder'\"")
    add = parser.add_argument
    add(
        "--output",
        type=local_path,
        required=True,
        metavar="FILE",
        help="file to write: .json for bpe, .model for unigram",
    )
    add(
        "--kind",
        choices=tuple(SUFFIXES),
        default="bpe",
        help="bpe (default): byte-level, for Hugging Face's tokenizers; unigram: SentencePiece",
    )
    add(
        "--size",
        type=int,
        default=32_000,
        metavar="N",
        help="number of tokens (default: %(default)s)",
    )
    add(
        "--sample",
        type=int,
        default=100_000_000,
        metavar="BYTES",
        help="train on this much text, always the same (default: %(default)s)",
    )
    add(
        "--special_tokens",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names of tokens for your own use, which no text contains",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    check_arguments(arguments)
    _, data = load_prepare(arguments.gin_file, arguments.gin_bindings)
    documents = load_documents(data)["train"]
    size = min(arguments.sample, documents.num_bytes)
    print(f"training on {size:,} of {documents.num_bytes:,} bytes", flush=True)
    content = train(arguments, sample_text(documents, arguments.sample), size)
    try:
        with atomic_write(arguments.output) as file:
            file.write(content)
    except OSError as error:
        raise UserError(
            f"cannot write --output={arguments.output} ({error.strerror}): name another file"
        ) from error
    vocabulary = load_vocabulary(str(arguments.output))
    measured = next(sample_text(documents, arguments.sample)).encode()[:MEASURED_BYTES]
    bytes_per_token = len(measured) / max(len(vocabulary.encode(measured)), 1)
    print(
        f"{arguments.output}: {vocabulary.size:,} tokens, {bytes_per_token:.2f} bytes per token\n"
        f"to use it, set prepare.vocabulary = '{arguments.output.absolute()}' for prepare_data"
    )


def check_arguments(arguments: argparse.Namespace):
    output, suffix = arguments.output, SUFFIXES[arguments.kind]
    if output.suffix != suffix:
        raise UserError(f"--output={output}: give a name that ends in {suffix}")
    if not output.parent.is_dir():
        raise UserError(f"no folder {output.parent} for --output={output}: create it first")
    for name in ("size", "sample"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)}: give 1 or more")
    names = arguments.special_tokens
    if "" in names or len({*names, *OWN_NAMES}) < len(names) + len(OWN_NAMES):
        raise UserError(
            f"--special_tokens {' '.join(names)}: give each token a name of its own, other than "
            f"{', '.join(OWN_NAMES)}"
        )


def train(arguments: argparse.Namespace, texts: Iterable[str], num_bytes: int) -> bytes:
    """Trains the vocabulary on texts of this size together, and shows the progress."""
    size, tokens = arguments.size, arguments.special_tokens
    handler = signal.getsignal(signal.SIGINT)
    try:
        if arguments.kind == "unigram":
            return train_unigram(with_progress(texts, num_bytes), size, tokens)
        end_on_ctrl_c()
        return train_bpe(texts, size, tokens, show_progress=sys.stderr.isatty())
    finally:
        signal.signal(signal.SIGINT, handler)


def end_on_ctrl_c():
    """Ends the process on Ctrl-C. In native code, Python's own handler would have to wait."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def with_progress(texts: Iterable[str], total: int) -> Iterator[str]:
    """The texts, with a bar in a terminal that shows how many bytes have been read."""
    bar, read = start_bar(sys.stderr, TaskProgressColumn(), BarColumn(20), total=total), 0
    try:
        for text in texts:
            read += len(text.encode())
            if bar:
                bar.update(bar.task_ids[0], completed=read, numbers=f"{read:,} bytes read")
            yield text
    finally:
        if bar:
            bar.stop()
    print("choosing the pieces: takes several times as long as reading", flush=True)
    end_on_ctrl_c()


if __name__ == "__main__":
    run_main(main)
