"""Trainings in separate processes that can be killed, forked from one with all imports."""

import json
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
FORKED.set_forkserver_preload(["block_recurrent.train"])  # saves seconds each time
TIMEOUT = 300  # seconds; a training that takes longer counts as hung
HEARTBEAT = 10  # seconds of silence until a host counts as lost


class Training:
    """``python -m block_recurrent.train`` in one process, or in several with one device each.

    Args:
      config: a gin file.
      workdir: folder of the run.
      processes: number of processes.
      log: file for their output; process i appends .i to the name.
      *bindings: other values of gin parameters.
    """

    def __init__(self, config: Path, workdir: Path, processes: int, log: Path, *bindings: str):
        self.workdir = workdir
        arguments = ["train", f"--gin_file={config}", f"--workdir={workdir}"]
        arguments += [f"--gin_bindings={binding}" for binding in bindings]
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
        """The exit statuses of the processes; None for those that have not ended in time."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def wait_until(self, happened: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
        """Checks every millisecond. True if it happened before the training ended."""
        end = time.monotonic() + seconds
        while not (yes := happened()) and time.monotonic() < end and self.is_alive():
            time.sleep(0.001)
        return yes

    def is_alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.workdir.glob("checkpoints/*.orbax-checkpoint-tmp"))

    def is_evaluating(self, every: int) -> bool:
        """Whether the newest metrics are those of a step with an evaluation, which is not done."""
        log = self.workdir / "metrics.jsonl"
        *_, newest, _ = ["", "", *log.read_text().split("\n")] if log.exists() else ["", ""]
        line = json.loads(newest or "{}")
        return line.get("split") == "train" and line["step"] % every == 0

    def read_output(self) -> str:
        return "".join(log.read_text(errors="replace") for log in self.logs if log.exists())

    def kill(self) -> bool:
        """Sends SIGKILL to all processes. True if that ended any of them."""
        for process in self.processes:
            process.kill()
        return -signal.SIGKILL in self.wait()

    def terminate(self, index: int = 0):
        """Sends SIGTERM to one process."""
        os.kill(self.processes[index].pid, signal.SIGTERM)

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_):
        self.kill()


def train(arguments: list[str], log: Path):
    """Runs in the forked process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1), os.dup2(descriptor, 2)
    sys.argv = arguments
    run_main(main)
