"""Tries every fault on real trainings and prints how many runs survived: the table in
docs/reliability.md.

    python tests/fault_report.py [--kills=N] [--seed=S]

Takes minutes.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from faults.damage import damaged_files
from faults.place import Place
from faults.stops import (
    host_lost,
    killed,
    killed_while_evaluating,
    killed_while_saving,
    terminated,
)
from faults.storage import disk_full, read_only, second_training, store_changed
from faults.tmpfs import may_mount
from faults.tried import Tried


def suite(folder: Path, seed: int, kills: int) -> Iterator[Tried]:
    """Tries every fault: `kills` times SIGKILL, and the other faults in proportion."""
    place, few = Place(folder / "place", seed=seed), max(1, kills // 20)
    yield killed(place, kills * 4 // 10, 1)
    yield killed_while_saving(place, kills * 3 // 10, 1)
    yield killed_while_evaluating(place, few, 1)
    yield killed(place, kills * 2 // 10, 2)
    yield killed_while_saving(place, kills * 1 // 10, 2)
    yield host_lost(place, few)
    yield terminated(place, few, 1)
    yield terminated(place, few, 2)
    yield damaged_files(place)
    if may_mount():
        yield disk_full(place, few)
        yield read_only(place, 1)
    yield second_training(place, 2, 1)
    yield second_training(place, 1, 2)
    yield store_changed(folder / "store", 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=60, help="SIGKILLs in all (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments")
    arguments = parser.parse_args()
    logging.disable()  # Orbax warns of what it was asked to do
    began, results = time.monotonic(), []
    print("| fault | tried | survived | |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # The trainings are alike: what one has compiled serves the others.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        for result in suite(Path(folder), arguments.seed, arguments.kills):
            results.append(result)
            print("| {} | {} | {} | {} |".format(*result), flush=True)
    tried, survived = (sum(getattr(r, name) for r in results) for name in ("tried", "survived"))
    lost = "nothing lost" if tried == survived else f"{tried - survived} LOST SOMETHING"
    print(f"| all | {tried} | {survived} | {lost}, {time.monotonic() - began:.0f} s |")
    return int(tried != survived)


if __name__ == "__main__":
    sys.exit(main())
