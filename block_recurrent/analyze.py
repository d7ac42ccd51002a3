"""Analyze the recurrent layers of a run: ``python -m block_recurrent.analyze --workdir=DIR …``."""

import argparse
import codecs
from pathlib import Path

import numpy as np

from block_recurrent.analysis.tracing import Text, gate_quantiles, make_tracer
from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.cli import (
    CommandParser,
    add_checkpoint_arguments,
    add_workdir_argument,
    run_main,
)
from block_recurrent.data.corpora import load_documents
from block_recurrent.data.vocabularies import PADDING
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, local_path
from block_recurrent.model.transformer import abstract_model
from block_recurrent.training.checkpoints import WEIGHTS, Checkpoints
from block_recurrent.training.corpus_record import check_corpus
from block_recurrent.training.selection import choose_step
from block_recurrent.training.workdir import read_config, run_vocabulary

EXAMPLES = """\
  python -m block_recurrent.analyze --workdir=runs/brt_fixed_gate --output=inside
  python -m block_recurrent.analyze --workdir=runs/brt_fixed_gate --output=inside \\
      --text_file=book.txt
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "analyze",
        "Shows gate values, attention between states and tokens, and how the states change "
        "along a\ntext, as figures and as arrays.",
        EXAMPLES,
    )
    add_workdir_argument(parser, required=True)
    add_checkpoint_arguments(parser, average=False)
    parser.add_argument(
        "--output", type=local_path, required=True, metavar="DIR", help="folder for the results"
    )
    parser.add_argument(
        "--text_file",
        type=local_path,
        metavar="FILE",
        help="the text for the model to read (default: the longest held-out document)",
    )
    parser.add_argument(
        "--max_tokens",
        type=int,
        default=16_384,
        metavar="N",
        help="read at most this many tokens of the text (default: %(default)s)",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"--output={arguments.output} is a file: give the path of a folder")
    from block_recurrent.analysis.report import write_analysis  # reports a missing matplotlib

    config = read_config(arguments.workdir, arguments.gin_bindings)
    if not config.model.recurrent_layers:
        raise UserError(
            f"the model in {arguments.workdir} has no recurrent layers to analyze: choose a run "
            "that sets BlockRecurrentTransformer.recurrent_layers"
        )
    graphdef, abstract = abstract_model(config.model)
    tracer = make_tracer(graphdef, config.model.window_length)
    history: dict[int, dict[int, dict[str, list[float]]]] = {}
    which, item = arguments.weights, WEIGHTS[arguments.weights]
    with Checkpoints(arguments.workdir, read_only=True, items=[item]) as checkpoints:
        chosen = choose_step(checkpoints, arguments.workdir, config.train, arguments.step, which)
        text = read_text(arguments.workdir, config, arguments.text_file, arguments.max_tokens)
        for step in filter(checkpoints.is_intact, checkpoints.steps):
            found = tracer(checkpoints.restore_params(abstract, step, which), text.inputs)
            history[step] = {layer: gate_quantiles(arrays) for layer, arrays in found.items()}
            if step == chosen:
                trace = found
    write_analysis(arguments.output, config.model, text, chosen, trace, history)


def read_text(workdir: AnyPath, config: RunConfig, path: Path | None, max_tokens: int) -> Text:
    """Read a file, or the longest held-out document, as model input.

    Raises:
      UserError: the file cannot be read, or is shorter than one block; or the held-out documents
        are not those of the run.
    """
    window = config.model.window_length
    if path is None:
        splits = load_documents(config.data)
        check_corpus(workdir, splits, ["held_out"])
        documents = splits["held_out"]
        vocabulary = documents.vocabulary
        longest = int(np.argmax(documents.lengths))
        name = documents.names[longest]
        tokens = documents.tokens(longest, 0, max(max_tokens, 0))
    else:
        name, vocabulary = str(path), run_vocabulary(workdir, config.data)
        try:
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
            tokens = vocabulary.encode(content)[: max(max_tokens, 0)]
        except OSError as error:
            raise UserError(f"cannot read --text_file={path} ({error.strerror})") from error
    length = len(tokens) // window * window
    if not length:
        raise UserError(
            f"{name} has only {len(tokens)} tokens, less than one block of {window}: give a longer "
            "text with --text_file, or a larger --max_tokens"
        )
    inputs = np.concatenate([[PADDING], tokens[: length - 1]]).astype(np.int32)
    return Text(name, inputs, vocabulary)


if __name__ == "__main__":
    run_main(main)
