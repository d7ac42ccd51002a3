"""Evaluate a checkpoint of a run: ``python -m block_recurrent.evaluate --workdir=DIR``."""

import argparse
import sys
from typing import Any

import jax
from flax import nnx

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.console.cli import (
    CommandParser,
    add_checkpoint_arguments,
    add_workdir_argument,
    check_output,
    chosen_weights,
    run_main,
)
from block_recurrent.console.lossy import lossy_mark
from block_recurrent.console.progress import EvaluationProgress
from block_recurrent.data.corpora import load_documents
from block_recurrent.errors import UserError
from block_recurrent.evaluation.evaluator import AfterBatch, Evaluator, evaluation_shape
from block_recurrent.evaluation.loss_profile import Profile, distance_table
from block_recurrent.evaluation.memory_worth import MEMORIES, MemoryProbe
from block_recurrent.evaluation.report import write_report
from block_recurrent.files.paths import local_path
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.reporting.metrics_log import write_numbers
from block_recurrent.training.corpus_record import check_corpus
from block_recurrent.training.workdir import load_run

EXAMPLES = """\
  python -m block_recurrent.evaluate --workdir=runs/brt_fixed_gate --json=result.json
  python -m block_recurrent.evaluate --workdir=runs/brt_fixed_gate --report=report.html
  python -m block_recurrent.evaluate --workdir=runs/mine --gin_bindings="data.path = 'moved'"
  python -m block_recurrent.evaluate --workdir=runs/brt_fixed_gate --step=best --split=test
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "evaluate",
        "Measures bits per token, byte and character of a checkpoint over whole documents.\n"
        "The state is carried from segment to segment, and every token counts once.",
        EXAMPLES,
    )
    add_workdir_argument(parser, required=True)
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "--split",
        default="held_out",
        help="held_out (default), train, or another split of the corpus",
    )
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="also write the result to this file"
    )
    parser.add_argument(
        "--report",
        type=local_path,
        metavar="FILE.html",
        help="also write a page of charts, and their numbers to FILE.json: the loss by position "
        "in the document, with and without the recurrent state. Reads the documents four times",
    )
    parser.add_argument(
        "--batch_size", type=int, metavar="B", help="rows (default: depends on the documents)"
    )
    parser.add_argument(
        "--segment_length",
        type=int,
        metavar="T",
        help="tokens per row and step (default: depends on the documents)",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    # Before the evaluation, rather than after it.
    check_output("json", arguments.json)
    check_output("report", arguments.report, ".html")
    config, model, step = load_run(arguments.workdir, **chosen_weights(arguments))
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)
    evaluator = make_evaluator(graphdef, config, arguments)
    with EvaluationProgress() as progress:
        score = evaluator(params, progress.update)
    result = {"step": step, "weights": arguments.weights, "average": arguments.average}
    result |= {"split": arguments.split, **score.metrics()}
    result |= {
        "documents": len(evaluator.documents.lengths),
        "tokens": score.num_tokens,
        "bytes": score.num_bytes,
    }
    if score.has_words:
        result["words"] = score.num_words
    if score.num_characters is not None:
        result["characters"] = score.num_characters
    for name, value in result.items():
        text = f"{value:.6f}" if isinstance(value, float) else value
        print(f"{name:<20}{text}{lossy_mark(result, name)}")
    if arguments.json:
        written = result | {"by_distance": distance_table({"carried": score.profile})}
        write_numbers(arguments.json, written)
    if arguments.report:
        with EvaluationProgress() as progress:
            memories = probe_memory(evaluator, config, params, progress.update)
        write_report(arguments.report, arguments.workdir, config, result, score.profile, memories)


def make_evaluator(
    graphdef: nnx.GraphDef, config: RunConfig, arguments: argparse.Namespace
) -> Evaluator:
    """An evaluator of the chosen split on one device; arguments may set rows and segment length."""
    splits = load_documents(config.data)
    if arguments.split not in splits:
        raise UserError(f"no split {arguments.split}: choose from {', '.join(splits)}")
    check_corpus(arguments.workdir, splits, [arguments.split], note=note)
    documents = splits[arguments.split]
    shape = config.train.rows_at_once, config.train.segment_length
    shape = evaluation_shape(documents, config.model, *shape)
    given = arguments.batch_size, arguments.segment_length
    rows, length = (
        default if value is None else value for default, value in zip(shape, given, strict=True)
    )
    layout = Layout(make_mesh(MeshConfig(), config.model, rows, jax.devices()[:1]))
    return Evaluator(graphdef, documents, config.model.window_length, rows, length, layout)


def note(line: str):
    """Print a line beside the results."""
    print(line, file=sys.stderr)


def probe_memory(
    evaluator: Evaluator, config: RunConfig, params: dict[str, Any], after_batch: AfterBatch
) -> dict[str, Profile]:
    """The loss with each memory; 'swapped' needs at least two rows."""
    if not config.model.has_recurrent_state:
        return {}
    memories = MEMORIES if evaluator.lanes.batch_size > 1 else MEMORIES[:2]
    probe = MemoryProbe(evaluator, config.train.segment_length)
    return probe(params, memories, after_batch=after_batch)


if __name__ == "__main__":
    run_main(main)
