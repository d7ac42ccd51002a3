"""Export a model as one file: ``python -m block_recurrent.export --workdir=DIR --output=FILE``."""

import argparse

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
from block_recurrent.training.workdir import load_run, run_vocabulary

EXAMPLES = """\
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --output=model.safetensors
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --step=best \\
      --output=best.safetensors
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --average=3 \\
      --output=mean.safetensors
  python -m block_recurrent.generate --model=model.safetensors --prompt='def main('
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "export",
        "Writes the model of a run's checkpoint and its vocabulary to a safetensors file, for use\n"
        "with block_recurrent.load_model, block_recurrent.generate and "
        "train.initial_model.",
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
        help="file to write, for example model.safetensors",
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
    config, model, step = load_run(arguments.workdir, **chosen_weights(arguments))
    file, about = read_vocabulary(arguments.workdir, config.data)
    about |= {"segment_length": str(config.train.segment_length), "step": str(step)}
    about |= {"weights": arguments.weights, "average": str(arguments.average)}
    save_model(arguments.output, model, arguments.dtype, file, **about)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes, step {step:,}")


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
