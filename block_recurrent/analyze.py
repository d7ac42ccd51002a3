"""Show what the memory does: ``python -m block_recurrent.analyze --text_file=TEXT --html=F``."""

import argparse
import sys

import numpy as np
from jaxtyping import Integer
from rich.progress import BarColumn, TaskProgressColumn

from block_recurrent.analysis.documents import Document, read_document
from block_recurrent.analysis.page import memory_page
from block_recurrent.analysis.reading import Reader, Reading, inputs_of
from block_recurrent.analysis.tracing import Text, gate_quantiles, make_tracer
from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.cli import (
    CommandParser,
    add_checkpoint_arguments,
    add_model_arguments,
    check_output,
    run_main,
)
from block_recurrent.console.progress import start_bar
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.data.vocabulary_storage import model_vocabulary
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, local_path
from block_recurrent.files.writing import atomic_write
from block_recurrent.interop.model_file import PRETRAINED, load_model
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.transformer import BlockRecurrentTransformer, abstract_model
from block_recurrent.training.checkpoints import WEIGHTS, Checkpoints
from block_recurrent.training.corpus_record import check_corpus
from block_recurrent.training.selection import choose_step
from block_recurrent.training.workdir import load_run, read_config, run_vocabulary

OUTPUT_TOKENS = 16_384
EXAMPLES = """\
  python -m block_recurrent.analyze --text_file=program.py --html=page.html
  python -m block_recurrent.analyze --workdir=runs/brt_fixed_gate --html=page.html
  python -m block_recurrent.analyze --workdir=runs/books --text_file=book.txt \\
      --other_file=another.txt --html=page.html
  python -m block_recurrent.analyze --workdir=runs/brt_fixed_gate --output=inside
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "analyze",
        "Shows what the memory does along a text: as an interactive page, or as figures and arrays "
        "of the\nrecurrent layers. By default, uses the small model included in the package.",
        EXAMPLES,
    )
    add = parser.add_argument
    add_model_arguments(parser, PRETRAINED)
    add_checkpoint_arguments(parser, average=False)
    results = parser.add_mutually_exclusive_group(required=True)
    results.add_argument(
        "--html",
        type=local_path,
        metavar="FILE.html",
        help="write an interactive page that shows for every token its loss with and without the "
        "recurrent state, the states that it reads, and where they were written",
    )
    results.add_argument(
        "--output",
        type=local_path,
        metavar="DIR",
        help="write figures and arrays of gates, attention and states, over all checkpoints of a "
        "run, to this folder (extra [plots])",
    )
    add(
        "--text_file",
        type=local_path,
        metavar="FILE",
        help="the text for the model to read (default: the longest held-out document of the run)",
    )
    add(
        "--other_file",
        type=local_path,
        metavar="FILE",
        help="with --html: another text, whose memory the page compares with (default: without "
        "--text_file, the second longest held-out document of the run)",
    )
    add(
        "--max_tokens",
        type=int,
        metavar="N",
        help="read at most this many tokens of the text (default: all with --html, "
        f"{OUTPUT_TOKENS} with --output)",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    check_arguments(arguments)
    if arguments.html:
        write_page(arguments)
    else:
        write_arrays(arguments)


def check_arguments(arguments: argparse.Namespace):
    if not arguments.workdir:
        if arguments.output:
            raise UserError("--output shows the checkpoints of a run: give its --workdir")
        if not arguments.text_file:
            raise UserError("a model file has no documents: give a --text_file to read")
        if arguments.gin_bindings:
            raise UserError(
                "--gin_bindings says where the corpus of a run lies: give its --workdir"
            )
        if (arguments.step, arguments.weights) != ("latest", "raw"):
            raise UserError(
                "--step and --weights need --workdir: a model file has one set of weights"
            )
    check_output("html", arguments.html, ".html")
    if arguments.other_file and arguments.output:
        raise UserError("--other_file is for the page: give --html instead of --output")
    if arguments.output and arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output={arguments.output} is a file: give the path of a folder")


def write_page(arguments: argparse.Namespace):
    """Read the text with the model, and write the page."""
    if arguments.workdir:
        chosen = arguments.step, arguments.weights
        config, model, step = load_run(arguments.workdir, *chosen, bindings=arguments.gin_bindings)
        name = f"{arguments.workdir.resolve().name}, step {step:,}"
    else:
        model, about = load_model(arguments.model)
        name = arguments.model.name
    check_recurrent(model.config, arguments.workdir or arguments.model)
    window = model.config.window_length
    if not arguments.text_file:
        documents, vocabulary = held_out_documents(arguments.workdir, config, 2)
        # Without a whole block, the other one has no memory to compare with.
        documents[1:] = [each for each in documents[1:] if len(each.tokens) >= window]
    else:
        if arguments.workdir:
            vocabulary = run_vocabulary(arguments.workdir, config.data)
        else:
            vocabulary = model_vocabulary(arguments.model, about)
        documents = [read_document(arguments.text_file, vocabulary)]
    if arguments.other_file:
        documents[1:] = [read_document(arguments.other_file, vocabulary, "--other_file")]
    tokens = documents[0].first(arguments.max_tokens, 1)
    others = [each.first(None, window) for each in documents[1:]]
    reading = read(model, tokens, *others)
    title = f"What the memory does in {documents[0].name}"
    page = memory_page(title, name, model.config, vocabulary, reading)
    with atomic_write(arguments.html) as file:
        file.write(page.encode())
    print(f"{summary(reading)}\npage in {arguments.html} ({len(page) / 1e6:.1f} MB)")


def read(
    model: BlockRecurrentTransformer,
    tokens: Integer[np.ndarray, " T"],
    other: Integer[np.ndarray, " M"] | None = None,
) -> Reading:
    """Read a text, with a progress bar in a terminal."""
    bar = start_bar(sys.stderr, TaskProgressColumn(), BarColumn(20), total=len(tokens))

    def update(done: int):
        if bar:
            bar.update(bar.task_ids[0], completed=done, numbers=f"{done:,} tokens read")

    try:
        return Reader(model)(tokens, other, update)
    finally:
        if bar:
            bar.stop()


def summary(reading: Reading) -> str:
    """The mean loss with each memory."""
    bits = {name: float(each.mean()) for name, each in reading.bits.items()}
    line = f"{len(reading.tokens):,} tokens: {bits['carried']:.4f} bits per token with memory"
    line += f", {bits['cleared'] - bits['carried']:+.4f} without"
    if "swapped" in bits:
        line += f", {bits['swapped'] - bits['carried']:+.4f} with another document's"
    return line


def write_arrays(arguments: argparse.Namespace):
    """Trace the text with every checkpoint of the run, and write figures and arrays."""
    from block_recurrent.analysis.report import write_analysis  # reports a missing matplotlib

    config = read_config(arguments.workdir, arguments.gin_bindings)
    check_recurrent(config.model, arguments.workdir)
    window = config.model.window_length
    graphdef, abstract = abstract_model(config.model)
    tracer = make_tracer(graphdef, window)
    history: dict[int, dict[int, dict[str, list[float]]]] = {}
    which, item = arguments.weights, WEIGHTS[arguments.weights]
    with Checkpoints(arguments.workdir, read_only=True, items=[item]) as checkpoints:
        chosen = choose_step(checkpoints, arguments.workdir, config.train, arguments.step, which)
        if arguments.text_file:
            vocabulary = run_vocabulary(arguments.workdir, config.data)
            document = read_document(arguments.text_file, vocabulary)
        else:
            (document,), vocabulary = held_out_documents(arguments.workdir, config, 1)
        limit = OUTPUT_TOKENS if arguments.max_tokens is None else arguments.max_tokens
        tokens = document.first(limit, window)
        text = Text(document.name, inputs_of(tokens[: len(tokens) // window * window]), vocabulary)
        for step in filter(checkpoints.is_intact, checkpoints.steps):
            found = tracer(checkpoints.restore_params(abstract, step, which), text.inputs)
            history[step] = {layer: gate_quantiles(arrays) for layer, arrays in found.items()}
            if step == chosen:
                trace = found
    write_analysis(arguments.output, config.model, text, chosen, trace, history)


def check_recurrent(model: ModelConfig, source: AnyPath):
    if not model.recurrent_layers:
        raise UserError(
            f"the model in {source} has no recurrent layers to analyze: choose a run that sets "
            "BlockRecurrentTransformer.recurrent_layers"
        )


def held_out_documents(
    workdir: AnyPath, config: RunConfig, count: int
) -> tuple[list[Document], Vocabulary]:
    """The longest held-out documents of a run, as many as there are."""
    splits = load_documents(config.data)
    check_corpus(workdir, splits, ["held_out"])
    documents = splits["held_out"]
    longest = np.argsort(-documents.lengths, kind="stable")[:count].tolist()
    found = [
        Document(documents.names[index], documents.tokens(index, 0, int(documents.lengths[index])))
        for index in longest
    ]
    return found, documents.vocabulary


if __name__ == "__main__":
    run_main(main)
