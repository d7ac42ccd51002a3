"""A run's model as one file: ``python -m block_recurrent.export --workdir=DIR --output=FILE``."""

import argparse
from pathlib import Path

from block_recurrent.console.cli import EXIT_STATUS, run_main
from block_recurrent.files.paths import workdir_path
from block_recurrent.interop.model_file import save_model
from block_recurrent.training.workdir import load_run

EPILOG = f"""\
{EXIT_STATUS}

examples:
  python -m block_recurrent.export --workdir=runs/brt_fixed_gate --output=model.safetensors
  python -m block_recurrent.generate --model=model.safetensors --prompt='def main('
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m block_recurrent.export",
        description="Writes the model of a run's newest checkpoint as a safetensors file, which\n"
        "block_recurrent.load_model, block_recurrent.generate and train.initial_model read.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--workdir", type=workdir_path, required=True, metavar="DIR", help="the run")
    add("--output", type=Path, required=True, metavar="FILE", help="model.safetensors, for example")
    add(
        "--dtype",
        default="float32",
        choices=("float32", "float16", "bfloat16"),
        help="of the parameters in the file (default: %(default)s)",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    config, model, step = load_run(arguments.workdir)
    about = {
        "vocabulary": config.data.vocabulary,
        "segment_length": str(config.train.segment_length),
        "step": str(step),
    }
    save_model(arguments.output, model, arguments.dtype, **about)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes, step {step:,}")


if __name__ == "__main__":
    run_main(main)
