"""Trainings in processes of their own, to be killed: forked from one that has all imports."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from block_recurrent.console.cli import run_main
from block_recurrent.train import main

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["block_recurrent.train"])  # seconds, once instead of each time
TIMEOUT = 300  # seconds without an end, after which a training counts as hung
HEARTBEAT = 10  # seconds of silence until a host counts as lost


class Training:
    """``python -m block_recurrent.train`` by one process, or by several with a device each.

    Args:
      config: a gin file.
      workdir: of the run.
      processes: how many.
      log: where they print to, the i-th one to this name and i.
    """

    def __init__(self, config: Path, workdir: Path, processes: int, log: Path):
        self.workdir = workdir
        arguments = ["train", f"--gin_file={config}", f"--workdir={workdir}"]
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            arguments += [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={processes}"]
            arguments += [f"--gin_bindings=distributed.heartbeat_seconds = {HEARTBEAT}"]
        self.logs = [log.with_name(f"{log.name}.{index}") for index in range(processes)]
        self.processes = []
        for index, log in enumerate(self.logs):
            own = [f"--process_id={index}"] if processes > 1 else []
            self.processes.append(FORKED.Process(target=train, args=([*arguments, *own], log)))
            self.processes[-1].start()

    def wait(self, seconds: float = TIMEOUT) -> list[int | None]:
        """The processes' exit statuses, or None of those that have not ended so soon."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def wait_until(self, happened: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
        """Whether it happened before the end, looked at every millisecond."""
        end = time.monotonic() + seconds
        while not (yes := happened()) and time.monotonic() < end and self.alive:
            time.sleep(0.001)
        return yes

    @property
    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.workdir.glob("checkpoints/*.orbax-checkpoint-tmp"))

    @property
    def output(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs if log.exists())

    def kill(self) -> bool:
        """SIGKILL to all. Whether that ended any of them."""
        for process in self.processes:
            process.kill()
        return -signal.SIGKILL in self.wait()

    def terminate(self, index: int = 0):
        """SIGTERM to one."""
        os.kill(self.processes[index].pid, signal.SIGTERM)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_):
        self.kill()


def train(arguments: list[str], log: Path):
    """In the forked process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    sys.argv = arguments
    run_main(main)
