"""Writes shards in several worker processes, which exit with this process."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.data.prepare.quiet_tensorflow import quiet
from block_recurrent.data.prepare.source import Source, open_sources
from block_recurrent.data.prepare.store_progress import Counters, StoreProgress
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.data.prepare.write_shard import write_shard
from block_recurrent.errors import UserError

SECONDS_BETWEEN_UPDATES = 0.25


class Setup(NamedTuple):
    """What a worker needs before its first shard.

    Attributes:
      prepare, data: the configuration.
      descriptions: of each Task's source, which must be the same in all processes.
      sources: the sources; None: each worker opens them for itself.
    """

    prepare: PrepareConfig
    data: DataConfig
    descriptions: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Source] | None


def write_shards(
    sources: Mapping[str, Source], setup: Setup, num_processes: int, progress: StoreProgress
):
    """Writes the missing shards.

    Args:
      sources: by Task, for this process.
      setup: setup of the workers.
      num_processes: number of workers; with 1, this process writes the shards itself.
      progress: updated a few times per second, also when it can raise an error.

    Raises:
      UserError: a shard cannot be written, or `progress` raises it.
    """
    if num_processes <= 1:
        for row, shard in progress.missing:
            _write(sources, row, shard, progress.counters, progress.update)
        return
    workers = [_Worker(setup, progress.counters) for _ in range(num_processes)]
    try:
        _distribute(list(progress.missing), workers, progress.update)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


class _Worker:
    """A process that writes the shards that it receives through a pipe."""

    def __init__(self, setup: Setup, counters: Counters):
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(
            target=_run_worker, args=(other_end, setup, counters), daemon=True
        )
        self.process.start()
        other_end.close()  # so that `recv` notices when the process has ended

    def receive_ready(self):
        """Waits until the worker is ready for a shard. Raises the worker's error, if any."""
        try:
            error = self.connection.recv()
        except EOFError:
            self.process.join()
            error = UserError(
                f"a worker process ended with exit status {self.process.exitcode}: if memory ran "
                "out, lower prepare.num_processes; finished shards are kept"
            )
        if error is not None:
            raise error


def _distribute(
    waiting: list[tuple[int, Shard]], workers: list[_Worker], update: Callable[[], None]
):
    """Sends a shard to each worker that is ready, until all shards are written."""
    busy = {worker.connection: worker for worker in workers}
    while busy:
        for connection in wait(list(busy), SECONDS_BETWEEN_UPDATES):
            busy[connection].receive_ready()
            if waiting:
                # If the worker has just exited, the next `receive_ready` raises an error.
                with contextlib.suppress(BrokenPipeError):
                    connection.send(waiting.pop(0))
            else:
                del busy[connection]
        update()


def _run_worker(connection: Connection, setup: Setup, counters: Counters):
    """The main function of a worker. Sends None when it is ready for a shard, or an exception."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent ends this process
    try:
        with quiet():
            sources = _set_up(setup)
            while True:
                _write(sources, *_receive_shard(connection), counters, lambda: None)
    except UserError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))


def _receive_shard(connection: Connection) -> tuple[int, Shard]:
    try:
        connection.send(None)
        return connection.recv()
    except (EOFError, OSError):  # the parent has ended
        os._exit(1)


def _set_up(setup: Setup) -> Mapping[str, Source]:
    if setup.sources is not None:
        return setup.sources
    sources = open_sources(setup.prepare, setup.data).tasks
    for name, described in setup.descriptions.items():
        if sources[name].describe() != described:
            raise UserError(
                f"the source of {name} has changed since prepare_data started: run the same "
                "command again when it no longer changes"
            )
    return sources


def _write(
    sources: Mapping[str, Source],
    row: int,
    shard: Shard,
    counters: Counters,
    update: Callable[[], None],
):
    def report(counts: Sequence[int]):
        counters.numbers[row] = counts
        update()

    write_shard(sources[shard.task], shard, report)


def _exit_with_parent():
    """Exits this process when its parent has exited."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
