"""Train a model: ``python -m block_recurrent.train --gin_file=gin/brt_fixed_gate.gin``."""

import argparse
import dataclasses

from block_recurrent.config.run_config import load
from block_recurrent.console.cli import (
    CommandParser,
    add_gin_arguments,
    add_workdir_argument,
    default_workdir,
    run_main,
)
from block_recurrent.parallel.processes import connect
from block_recurrent.training.preemption import STOPPED_STATUS
from block_recurrent.training.trainer import Trainer

NOTES = f"""\
To resume a run that was stopped, run the same command again. Exit status: 0 finished (all steps,
or ended by train.patience), 2 a mistake in the command or its data, {STOPPED_STATUS} stopped by
SIGTERM or Ctrl-C, after saving.

Common parameters: train.num_steps, train.batch_size (rows), train.segment_length (tokens),
train.microbatches, train.eval_every_steps, train.checkpoint_every_steps, train.patience,
train.seed, optimizer.learning_rate, data.path, mesh.data, mesh.fsdp, mesh.tensor, mesh.sequence,
and the model's BlockRecurrentTransformer.num_layers, embedding_size, window_length, num_states and
remat. config.gin in the run's folder lists all parameters."""
EXAMPLES = """\
  python -m block_recurrent.train --gin_file=gin/brt_fixed_gate.gin
  python -m block_recurrent.train --gin_file=gin/brt_lstm_gate.gin --workdir=runs/short \\
      --gin_bindings='train.num_steps = 100'
  python -m block_recurrent.train --gin_file=gin/brt_fixed_gate.gin \\
      --gin_file=gin/data/text_files.gin --gin_bindings="data.path = 'my/folder'"
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "train",
        "Trains a model, or resumes a run that was stopped.",
        EXAMPLES,
        NOTES,
    )
    add_gin_arguments(parser, required=True, example="'train.num_steps = 100'")
    add_workdir_argument(
        parser,
        description="folder of the run, on disk or gs://bucket/run (default: runs/<name of the "
        "first gin file>)",
    )
    parser.add_argument(
        "--allow_changes",
        action="store_true",
        help="continue the run although options that affect its training have changed, such as "
        "optimizer.learning_rate; the changes are recorded in changes.txt in its folder",
    )
    many = parser.add_argument_group(
        "several processes", "SLURM, Open MPI and TPU pods set these automatically; see launch/"
    )
    many.add_argument(
        "--coordinator_address",
        metavar="HOST:PORT",
        help="address of process 0; the same for all processes",
    )
    many.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    many.add_argument("--process_id", type=int, metavar="I", help="index of this process, from 0")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    bindings = list(arguments.gin_bindings)
    for name in ("coordinator_address", "num_processes"):
        if (value := getattr(arguments, name)) is not None:
            bindings.append(f"distributed.{name} = {value!r}")
    config = load(arguments.gin_file, bindings)
    connect(config.distributed, arguments.process_id)
    # The address is different in every launch, so config.gin does not record it.
    unaddressed = dataclasses.replace(
        config.distributed, coordinator_address=None, num_processes=None
    )
    config = dataclasses.replace(config, distributed=unaddressed)
    workdir = arguments.workdir or default_workdir(arguments.gin_file)
    finished = Trainer(config, workdir, allow_changes=arguments.allow_changes).run()
    return 0 if finished else STOPPED_STATUS


if __name__ == "__main__":
    run_main(main)
