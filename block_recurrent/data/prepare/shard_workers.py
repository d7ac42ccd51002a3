"""Writing shards, several at a time, in processes that end with this one."""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from block_recurrent.config.options import DataConfig, PrepareConfig
from block_recurrent.data.prepare.quiet_tensorflow import import_tensorflow, quiet
from block_recurrent.data.prepare.store_writer import Shard
from block_recurrent.errors import UserError

SECONDS_BETWEEN_LOOKS = 0.25


class Setup(NamedTuple):
    """What a process needs before its first shard.

    Attributes:
      prepare, data: the configuration.
      sources: the description of each Task's source, which must be the same in all processes.
    """

    prepare: PrepareConfig
    data: DataConfig
    sources: Mapping[str, Mapping[str, Any]]


class Counters:
    """What has been written, by shard; other processes write to the same memory."""

    def __init__(self, num_shards: int):
        self._memory = multiprocessing.RawArray("q", 4 * num_shards)

    @property
    def numbers(self) -> Int64[np.ndarray, "shards 4"]:
        """Examples read, documents and tokens written, and 1 if the shard is finished."""
        return np.frombuffer(self._memory, np.int64).reshape(-1, 4)


def write_shards(
    shards: Sequence[Shard],
    setup: Setup,
    num_processes: int,
    counters: Counters,
    look: Callable[[], None],
):
    """Writes the shards; calls `look` a few times a second.

    Raises:
      UserError: a shard cannot be written.
    """
    if num_processes <= 1:
        for number, shard in enumerate(shards):
            _write(number, shard, counters, look)
        return
    workers = [_Worker(setup, counters) for _ in range(num_processes)]
    try:
        _hand_out(list(enumerate(shards)), workers, look)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


class _Worker:
    """A process that writes the shards that come through a connection."""

    def __init__(self, setup: Setup, counters: Counters):
        context = multiprocessing.get_context("spawn")
        self.connection, other_end = context.Pipe()
        self.process = context.Process(target=_work, args=(other_end, setup, counters), daemon=True)
        self.process.start()
        other_end.close()  # or the end of the process would not show

    def take_answer(self):
        """That it is ready for a shard. Raises what went wrong, if something did."""
        try:
            error = self.connection.recv()
        except EOFError:
            self.process.join()
            error = UserError(
                f"a process that wrote shards has ended with status {self.process.exitcode}: if "
                "memory is short, lower prepare.num_processes; finished shards are kept"
            )
        if error is not None:
            raise error


def _hand_out(waiting: list[tuple[int, Shard]], workers: list[_Worker], look: Callable[[], None]):
    busy = {worker.connection: worker for worker in workers}
    while busy:
        for connection in wait(list(busy), SECONDS_BETWEEN_LOOKS):
            busy[connection].take_answer()
            if waiting:
                with contextlib.suppress(
                    BrokenPipeError
                ):  # it has just ended: its answer will say so
                    connection.send(waiting.pop(0))
            else:
                del busy[connection]
        look()


def _work(connection: Connection, setup: Setup, counters: Counters):
    """What the process does: it says None when it is ready for a shard, else what went wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    try:
        with quiet():
            _set_up(setup)
            while True:
                _write(*_next_shard(connection), counters, lambda: None)
    except UserError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))


def _next_shard(connection: Connection) -> tuple[int, Shard]:
    try:
        connection.send(None)
        return connection.recv()
    except (EOFError, OSError):  # the parent has ended
        os._exit(1)


def _set_up(setup: Setup):
    import_tensorflow()
    import seqio

    from block_recurrent.data.prepare.plan import describe_source
    from block_recurrent.data.prepare.tasks import register_tasks

    register_tasks(setup.prepare, setup.data)
    for name, source in setup.sources.items():
        if describe_source(seqio.TaskRegistry.get(name).source) != source:
            raise UserError(
                f"the source of {name} has changed since the start: begin again when it is at rest"
            )


def _write(number: int, shard: Shard, counters: Counters, look: Callable[[], None]):
    from block_recurrent.data.prepare.write_shard import write_shard

    row = counters.numbers[number]

    def report(*numbers: int):
        row[:3] = numbers
        look()

    write_shard(shard, report)
    row[3] = 1


def _end_with_parent():
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
