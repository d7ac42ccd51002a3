"""Make a token store: ``python -m block_recurrent.prepare_data --gin_file=gin/data/….gin …``."""

import argparse
import signal
from pathlib import Path

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.config.run_config import load, load_prepare
from block_recurrent.console.cli import CommandParser, add_gin_arguments, run_main
from block_recurrent.data.corpora import load_documents, survey_corpus
from block_recurrent.data.prepare.inspect_source import survey_texts
from block_recurrent.data.prepare.make_store import prepare
from block_recurrent.data.prepare.quiet_tensorflow import quiet
from block_recurrent.data.prepare.source import open_sources, reads_files
from block_recurrent.data.prepare.text_source import open_texts
from block_recurrent.data.store import verify
from block_recurrent.data.survey import Survey
from block_recurrent.errors import UserError
from block_recurrent.files.paths import local_path
from block_recurrent.training.preemption import STOPPED_STATUS

NOTES = f"""\
To resume after a stop or a kill, run the same command again. Exit status: 0 finished, 2 a mistake
in the command or its data, or a damaged store, {STOPPED_STATUS} stopped by SIGTERM or Ctrl-C."""
EXAMPLES = """\
  python -m block_recurrent.prepare_data --gin_file=gin/data/pg19_bytes.gin \\
      --output=stores/pg19_bytes
  python -m block_recurrent.prepare_data --gin_file=gin/data/text_files.gin --output=stores/mine \\
      --gin_bindings="data.path = 'my/folder'"
  python -m block_recurrent.prepare_data --gin_file=gin/data/text_files.gin --inspect \\
      --gin_bindings="data.path = 'my/folder'"
  python -m block_recurrent.prepare_data --output=stores/mine --verify
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "prepare_data",
        "Makes a token store, which training reads, from files, a seqio Task or a Mixture.",
        EXAMPLES,
        NOTES,
    )
    add_gin_arguments(parser, required=False, example="\"prepare.task = 'arxiv'\"")
    parser.add_argument(
        "--output",
        type=local_path,
        metavar="DIR",
        help="folder of the store; it is called DIR.partial until it is complete",
    )
    parser.add_argument(
        "--inspect",
        action="store_true",
        help="only describe the corpus: its documents, what is held out, and what looks wrong. "
        "Needs no --output, and no TensorFlow",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="only check that no byte of the existing store at DIR has changed",
    )
    arguments = parser.parse_args()
    if not arguments.output and not arguments.inspect:
        parser.error("the following arguments are required: --output")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    if arguments.verify:
        _verify(arguments.output)
        return 0
    config, data = load_prepare(arguments.gin_file, arguments.gin_bindings)
    if arguments.inspect:
        _inspect(arguments, config, data)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with quiet():
            sources, about = open_sources(config, data), ()
            if reads_files(config):
                found = survey_texts(
                    sources.tasks[sources.name].texts, _window_length(arguments, config)
                )
                _refuse_binary(found, data)
                about = found.lines()
            prepare(sources, config, data, arguments.output, about)
    except KeyboardInterrupt:
        print("stopped: run the same command again to continue")
        return STOPPED_STATUS
    return 0


def _inspect(arguments: argparse.Namespace, config: PrepareConfig, data: DataConfig):
    """Prints what the corpus contains. Raises UserError for documents that are no text."""
    window_length = _window_length(arguments, config)
    if reads_files(config) and data.path is not None:
        found = survey_texts(open_texts(config.task, data, "anywhere"), window_length)
    else:
        found = _survey_run(data, window_length)
    for line in found.lines(full=True):
        print(line)
    _refuse_binary(found, data)


def _survey_run(data: DataConfig, window_length: int | None) -> Survey:
    """Surveys the corpus of a run, which `prepare_data` does not read."""
    if data.corpus == "store" and not all(Path(path).is_dir() for path in data.stores):
        raise UserError(
            "there is nothing to inspect before it is prepared: of seqio Tasks over TFDS or "
            "your own sources, inspect the finished store, with data.stores"
        )
    return survey_corpus(data, load_documents(data), window_length)


def _window_length(arguments: argparse.Namespace, config: PrepareConfig) -> int | None:
    """The model's window; None if the number of tokens, and so of padding, is not known yet."""
    if config.vocabulary != "bytes" and reads_files(config):
        return None
    return load(arguments.gin_file, arguments.gin_bindings).model.window_length


def _refuse_binary(found: Survey, data: DataConfig):
    if not data.allow_binary:
        found.refuse_binary()


def _verify(store: Path):
    problems = 0
    for problem in verify(store):
        print(problem)
        problems += 1
    if problems:
        raise UserError(
            f"{store} is damaged: restore it from a copy, or delete it and prepare it again"
        )
    print(f"{store}: every file is as it was written")


if __name__ == "__main__":
    run_main(main)
