"""Evaluates a run's newest checkpoint: ``python -m block_recurrent.evaluate --workdir=DIR``."""

import argparse
import json
from pathlib import Path

import jax

from block_recurrent.checkpoints import Checkpoints
from block_recurrent.cli import run_main
from block_recurrent.data import load_documents
from block_recurrent.errors import UserError
from block_recurrent.evaluation import Evaluator, evaluation_shape
from block_recurrent.sharding import Layout, MeshConfig, make_mesh
from block_recurrent.train_step import abstract_model
from block_recurrent.workdir import read_config


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m block_recurrent.evaluate",
        description="Bits per token and per byte of the newest checkpoint over whole documents, "
        "the state carried from segment to segment and every byte counted once.",
    )
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="the run")
    parser.add_argument(
        "--split", default="held_out", help="held_out (default), train, or another of the store's"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result there")
    parser.add_argument(
        "--batch_size", type=int, metavar="B", help="rows; default: chosen by the documents"
    )
    parser.add_argument(
        "--segment_length", type=int, metavar="T", help="tokens a row; default: likewise"
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    if arguments.json and not arguments.json.parent.is_dir():
        raise UserError(f"no folder {arguments.json.parent} for --json={arguments.json}: make it")
    config = read_config(arguments.workdir)
    graphdef, abstract = abstract_model(config.model)
    with Checkpoints(arguments.workdir, read_only=True) as checkpoints:
        params = checkpoints.restore_params(abstract)
        step = checkpoints.latest_step
    splits = load_documents(config.data)
    if arguments.split not in splits:
        raise UserError(f"no split {arguments.split}: choose from {', '.join(splits)}")
    documents = splits[arguments.split]
    shape = config.train.batch_size, config.train.segment_length
    shape = evaluation_shape(documents, config.model.attention, *shape)
    asked = arguments.batch_size, arguments.segment_length
    rows, length = (n if given is None else given for n, given in zip(shape, asked, strict=True))
    layout = Layout(make_mesh(MeshConfig(), config.model, rows, jax.devices()[:1]))
    evaluator = Evaluator(graphdef, documents, config.model.window_length, rows, length, layout)
    score = evaluator(params)
    result = {"step": step, "split": arguments.split, **score.metrics()}
    result |= {
        "documents": len(documents.lengths),
        "tokens": score.num_tokens,
        "bytes": score.num_bytes,
        "words": score.num_words,
    }
    for name, value in result.items():
        print(f"{name:<16}{value:.6f}" if isinstance(value, float) else f"{name:<16}{value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    run_main(main)
