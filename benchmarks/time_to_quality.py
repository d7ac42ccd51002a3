"""The quality that two implementations reach in the same training time, on real long documents.

    python benchmarks/fetch_corpus.py kernel
    python benchmarks/time_to_quality.py --lucidrains_python=../torch_venv/bin/python

The other implementation is block-recurrent-transformer-pytorch from PyPI, with PyTorch and NumPy in
a Python environment of its own:

    python -m venv ../torch_venv
    ../torch_venv/bin/pip install torch numpy block-recurrent-transformer-pytorch

Both train on the bytes of the same corpus, with the same number of layers, width, heads, window and
state vectors, and the same number of parameters within 5%: the FFN of the other one is fitted. Ours
trains as gin/brt_fixed_gate.gin says, once for each of several numbers of steps, since its learning
rate falls until the last one. The other one trains as the train.py of its repository does, with as
many tokens per update as ours, at each of several learning rates. Seeds after the first train at
the best rate of the first.

Each program runs in its own process with the same number of threads. They take turns after slices
of a few seconds of training, so that a busy machine disturbs all alike. Between slices they score
some held-out documents, with the memory carried through each; this is not training time. Nor are
setup and compilation, which are reported beside it. At the end, each scores more documents.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
from contenders import WORKERS, Contender, Worker, ours
from fetch_corpus import CORPORA
from quality_curves import OURS, THEIRS, difference, level, of, rows, times_to_level
from report import report

from block_recurrent.config.run_config import RunConfig, load
from block_recurrent.console.cli import check_output, run_main
from block_recurrent.errors import UserError
from block_recurrent.model.transformer import abstract_model

GIN_FILES = ("gin/brt_fixed_gate.gin", "gin/data/text_files.gin")


def rates(text: str) -> list[float]:
    return [float(rate) for rate in text.split(",")]


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = functools.partial(parser.add_argument, metavar="N", type=count)
    add("--lucidrains_python", required=True, type=Path, metavar="PATH", help="with its package")
    add("--corpus", type=Path, metavar="DIR", default=CORPORA / "linux-6.1")
    add("--minutes", type=float, default=8.0, help="of training, for each program")
    add("--num_steps", type=integers, metavar="N,…", help="of ours; default: as in the gin file")
    add("--learning_rates", type=rates, metavar="X,…", help="of ours; default: as in the gin file")
    add("--their_learning_rates", type=rates, metavar="X,…", default=[3e-4, 1e-3, 3e-3])
    add("--seeds", type=integers, metavar="N,…", default=[0])
    add("--gin_bindings", action="append", type=str, metavar="A.b=1", default=[], help="of ours")
    add("--threads", help="of each program; default: all")
    add("--clock", choices=["wall", "processor"], type=str, default="wall", help="of training")
    add("--slice", type=float, default=5.0, help="seconds of training in a turn")
    add("--slices_per_score", default=6)
    add("--documents", default=24, help="to score during training")
    add("--document_bytes", default=16_384, help="of each of those, from its start")
    add("--final_documents", help="to score at the end; default: all that are held out")
    add("--final_document_bytes", help="of each of those; default: all")
    add("--json", type=Path, metavar="FILE", help="where to write the result")
    args = parser.parse_args()
    _, default = config(args)
    args.num_steps = args.num_steps or [default.train.num_steps]
    args.learning_rates = args.learning_rates or [default.optimizer.learning_rate]
    return args


def config(args: argparse.Namespace, *bindings: str) -> tuple[list[str], RunConfig]:
    """The bindings of ours, and what they and the gin files make."""
    path = str(args.corpus.resolve())
    bindings = [
        f"data.path = {path!r}",
        "data.held_out = 'held_out'",
        *args.gin_bindings,
        *bindings,
    ]
    return bindings, load(GIN_FILES, bindings)


def contenders(
    args: argparse.Namespace, seed: int, rates: Sequence[float], their_rates: Sequence[float]
) -> list[Contender]:
    """The programs that train with a seed: ours, then theirs. Their specs have all that makes them.

    Args:
      args: of the command.
      seed: of all.
      rates: learning rates of ours.
      their_rates: of the other one.
    """
    common = {
        "corpus": str(args.corpus.resolve()),
        "threads": args.threads,
        "clock": args.clock,
        "slice": args.slice,
        "rows": args.documents,
        "some": [args.documents, args.document_bytes],
        "all": [args.final_documents, args.final_document_bytes],
        "seed": seed,
    }
    _, default = config(args)
    _, params = abstract_model(default.model)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    found = []
    for rate, steps in itertools.product(rates, args.num_steps):
        bindings, _ = config(
            args,
            f"train.seed = {seed}",
            f"train.num_steps = {steps}",
            f"optimizer.learning_rate = {rate}",
        )
        own = {"gin_files": GIN_FILES, "bindings": bindings}
        spec = common | own | {"learning_rate": rate, "num_steps": steps}
        found.append(ours("ours", spec, worker="ours_training"))
    for rate in their_rates:
        spec = common | theirs(default, parameters) | {"learning_rate": rate, "num_steps": None}
        worker, python = WORKERS / "lucidrains_training.py", str(args.lucidrains_python)
        found.append(Contender("lucidrains", worker, spec, python=python))
    return found


def theirs(own: RunConfig, parameters: int) -> dict:
    """The spec of lucidrains' program that belongs to a configuration of ours, and its parameters.

    The lengths have the proportions of its train.py: a segment is two windows, a crop of the text
    two segments, and an update sees 16 crops. There these are in 4 parts; at once is faster here.
    """
    window = own.model.window_length
    return {
        "model": dataclasses.asdict(own.model) | {"vocab_size": 256},
        "parameters": parameters,
        "segment_length": 2 * window,
        "crop_length": 4 * window,
        "batch_size": 16,
        "flash": True,
    }


def turns(workers: int, slices: int, slices_per_score: int) -> Iterator[tuple[int, str]]:
    """What which worker does next: all a slice, in changing order; at intervals, all a score."""
    for number in range(slices):
        order = [(number + k) % workers for k in range(workers)]
        yield from ((index, "train") for index in order)
        if (number + 1) % slices_per_score == 0 or number + 1 == slices:
            yield from ((index, "some") for index in order)


def start(contender: Contender) -> tuple[Worker, dict]:
    """The process of a contender, and what is kept of it so far."""
    try:
        worker = Worker(contender)
    except (OSError, RuntimeError) as error:  # no such Python, or not the packages
        reason = str(error).strip().splitlines()[-1]
        message = f"{contender.name} does not start with {contender.python}: {reason}"
        raise UserError(message) from error
    kept = {name: contender.spec[name] for name in ("seed", "learning_rate", "num_steps")}
    facts = {name: fact for name, fact in worker.facts.items() if name != "first_call_seconds"}
    clocks = {"wall_seconds": 0.0, "processor_seconds": 0.0, "steps": 0, "scored_steps": 0}
    return worker, {"program": worker.name} | kept | facts | clocks | {"curve": []}


def train(workers: list[Worker], runs: list[dict], args: argparse.Namespace) -> None:
    """Trains all, in turns. Adds to `runs` the time that was used, and the curves."""
    slices = max(1, round(60 * args.minutes / args.slice))
    for index, what in turns(len(workers), slices, args.slices_per_score):
        worker, run = workers[index], runs[index]
        if run["steps"] == run["num_steps"] and run["scored_steps"] == run["steps"]:
            continue
        answer = worker.run(what)
        if what == "train":
            run["wall_seconds"] += answer["seconds"]
            run["processor_seconds"] += answer["cpu_seconds"]
            run |= {name: answer[name] for name in ("trained_seconds", "steps")}
        else:
            bits = sum(answer["bits"]) / sum(answer["bytes"])
            run["curve"].append([round(run["trained_seconds"], 2), round(bits, 4)])
            run["scored_steps"] = run["steps"]
            name = f"{run['program']}, learning rate {run['learning_rate']}, seed {run['seed']}"
            print(f"{run['trained_seconds']:7.1f} s {bits:7.4f} bits per byte  {name}", flush=True)


def score(workers: list[Worker], runs: list[dict]) -> None:
    """Scores the documents of the end, with the best learning rate of each program."""
    best = of(runs, OURS) + of(runs, THEIRS)
    for worker, run in zip(workers, runs, strict=True):
        if run in best:
            answer = worker.run("all")
            bits = [round(each, 1) for each in answer["bits"]]
            run["final"] = {"bytes": answer["bytes"], "bits": bits}


def compare(contenders: Iterable[Contender], args: argparse.Namespace) -> list[dict]:
    """Trains and scores all. Returns what is kept of each."""
    workers, runs = map(list, zip(*map(start, contenders), strict=True))
    train(workers, runs, args)
    score(workers, runs)
    for worker in workers:
        worker.close()
    return runs


def compare_seeds(args: argparse.Namespace) -> list[dict]:
    """The first seed at all learning rates, then the others at the best of each program."""
    first, *others = args.seeds
    runs = compare(contenders(args, first, args.learning_rates, args.their_learning_rates), args)
    best, their_best = ([of(runs, program)[0]["learning_rate"]] for program in (OURS, THEIRS))
    if others:
        every = [one for seed in others for one in contenders(args, seed, best, their_best)]
        runs += compare(every, args)
    return runs


def limit_threads(threads: int | None) -> int:
    """Gives the programs that are started from here so many processors; None: all. Returns it."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))[:threads]
        os.sched_setaffinity(0, processors)
        threads = len(processors)
    threads = threads or os.cpu_count()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false"
    return threads


def main() -> None:
    args = parse()
    if not (args.corpus / "held_out").is_dir():
        raise UserError(f"{args.corpus} has no folder held_out: see benchmarks/fetch_corpus.py")
    check_output("json", args.json)
    args.threads = limit_threads(args.threads)
    runs = compare_seeds(args)
    paths = ("lucidrains_python", "corpus", "json")
    settings = {name: value for name, value in vars(args).items() if name not in paths}
    report("time_to_quality", rows(runs), args.json, settings=settings, runs=runs)
    print(f"\ntheirs end with {level(runs):.3f} bits per byte; ours has them after")
    for steps, times in times_to_level(runs).items():
        shares = ", ".join(f"{share:.2f}" for _, share in times)
        print(f"{shares} of their time, in trainings of {steps} steps")
    more, *interval = difference(runs)
    print(f"theirs minus ours at the end: {more:.3f} bits per byte, 95% interval {interval}")


if __name__ == "__main__":
    run_main(main)
