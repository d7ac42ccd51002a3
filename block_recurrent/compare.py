"""Compare runs: ``python -m block_recurrent.compare RUN RUN …``."""

import argparse
from collections import Counter
from collections.abc import Sequence

from block_recurrent.comparison.report import Comparison
from block_recurrent.comparison.runs import read_run
from block_recurrent.console.cli import CommandParser, check_output, run_main, workdir_argument
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, in_bucket, local_path
from block_recurrent.reporting.metrics_log import write_numbers

EXAMPLES = """\
  python -m block_recurrent.compare runs/brt_fixed_gate runs/brt_lstm_gate
  python -m block_recurrent.compare runs/sweep-* --html=sweep.html
"""


def parse_arguments() -> argparse.Namespace:
    parser = CommandParser(
        "compare",
        "Shows runs next to each other: the options in which they differ, their held-out loss, "
        "speed and\nsize. Runs that differ in nothing but train.seed form a group, with mean, "
        "standard deviation\nand a comparison with the first group.",
        EXAMPLES,
    )
    parser.add_argument(
        "runs",
        type=workdir_argument,
        nargs="+",
        metavar="RUN",
        help="folder of a run, on disk or gs://bucket/run; the first one is the baseline",
    )
    parser.add_argument(
        "--json", type=local_path, metavar="FILE", help="also write the numbers to this file"
    )
    parser.add_argument(
        "--html",
        type=local_path,
        metavar="FILE.html",
        help="also write a page with the tables and charts of the losses",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    check_output("json", arguments.json)
    check_output("html", arguments.html, ".html")
    names = names_of(arguments.runs)
    runs = [read_run(workdir, name) for workdir, name in zip(arguments.runs, names, strict=True)]
    comparison = Comparison(runs)
    page = comparison.page() if arguments.html else None
    for line in comparison.lines():
        print(line)
    if arguments.json:
        write_numbers(arguments.json, comparison.numbers())
    if page:
        arguments.html.write_text(page, encoding="utf-8")


def names_of(workdirs: Sequence[AnyPath]) -> list[str]:
    """The names of the folders, or their paths where several have the same name.

    Raises:
      UserError: a folder is given twice.
    """
    folders = [each if in_bucket(each) else each.resolve() for each in workdirs]
    counts = Counter(folder.name for folder in folders)
    for folder, count in Counter(folders).items():
        if count > 1:
            raise UserError(f"{folder} is given {count} times: name each run once")
    return [
        folder.name if counts[folder.name] == 1 else str(workdir)
        for folder, workdir in zip(folders, workdirs, strict=True)
    ]


if __name__ == "__main__":
    run_main(main)
