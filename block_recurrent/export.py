"""Export a model: ``python -m block_recurrent.export --workdir=DIR --output=FILE``."""

import argparse
from typing import Any

from block_recurrent.config.data_options import DataConfig
from block_recurrent.console.cli import (
    CommandParser,
    add_checkpoint_arguments,
    add_workdir_argument,
    chosen_weights,
    run_main,
)
from block_recurrent.data.vocabulary_storage import FILE_VOCABULARIES, describe_for_model
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, local_path
from block_recurrent.interop.model_file import save_model
from block_recurrent.reporting.metrics_log import HELD_OUT, read_metrics
from block_recurrent.training.hub_folder import HubModel, check_folder, write_hub_folder
from block_recurrent.training.workdir import load_run, run_vocabulary

EXAMPLES = """\
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --output=model.safetensors
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --step=best \\
      --output=best.safetensors
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --average=3 \\
      --output=mean.safetensors
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --format=hub --output=my-model
  python -m block_recurrent.generate --model=model.safetensors --prompt='def main('
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "export",
        "Writes the model of a run and its vocabulary to a safetensors file, or to a folder for "
        "the\nHugging Face Hub. --model of other commands, block_recurrent.load_model and "
        "train.initial_model\ntake both.",
        EXAMPLES,
    )
    add_workdir_argument(parser, required=True)
    add_checkpoint_arguments(parser)
    add = parser.add_argument
    add(
        "--output",
        type=local_path,
        required=True,
        metavar="FILE",
        help="file to write, such as model.safetensors; with --format=hub, a new folder",
    )
    add(
        "--format",
        default="safetensors",
        choices=("safetensors", "hub"),
        help="a single file, or a folder for the Hugging Face Hub with a model card, config.json, "
        "model.safetensors and the tokenizer (extra [hub]) (default: %(default)s)",
    )
    add(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16"),
        help="type of the parameters in the file (default: %(default)s)",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    output, for_hub = arguments.output, arguments.format == "hub"
    if for_hub:
        check_folder(output)
    config, model, step = load_run(arguments.workdir, **chosen_weights(arguments))
    file, about = read_vocabulary(arguments.workdir, config.data)
    about |= {"segment_length": str(config.train.segment_length), "step": str(step)}
    about |= {"weights": arguments.weights, "average": str(arguments.average)}
    if for_hub:
        held_out = read_held_out(arguments, step)
        exported = HubModel(model, config, about, file, held_out)
        write_hub_folder(output, exported, arguments.dtype)
    else:
        save_model(output, model, arguments.dtype, file, **about)
    size = sum(path.stat().st_size for path in [output, *output.glob("*")] if path.is_file())
    print(f"{output}: {size:,} bytes, step {step:,}")


def read_held_out(arguments: argparse.Namespace, step: int) -> dict[str, Any] | None:
    """The metrics of the exported weights on held-out documents, if the run evaluated them."""
    split = HELD_OUT[arguments.weights]
    lines = read_metrics(arguments.workdir) if arguments.average == 1 else []
    found = [line for line in lines if (line["step"], line["split"]) == (step, split)]
    return found[-1] if found else None


def read_vocabulary(workdir: AnyPath, data: DataConfig) -> tuple[bytes, dict[str, str]]:
    """The file of a run's vocabulary, empty without one, and its entries for the header.

    The weights are useful without a vocabulary: if it is missing, this prints why.
    """
    try:
        vocabulary = run_vocabulary(workdir, data)
        has_file = vocabulary.kind in FILE_VOCABULARIES
        return vocabulary.file.content if has_file else b"", describe_for_model(vocabulary)
    except UserError as error:
        print(f"without the vocabulary: {error}")
        return b"", {"vocabulary": data.vocabulary}


if __name__ == "__main__":
    run_main(main)
