"""prepare_data survives kills, stops, a full disk, and documents of any length."""

import errno
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from block_recurrent.data.prepare.store_writer import _File
from preparing import (
    ONE_PROCESS,
    TEXTS,
    bind,
    command,
    contents,
    environment,
    mine,
    peak_megabytes,
)


@pytest.mark.slow
def test_many_processes_and_clean_output(place, prepare, model):
    """Runs in a separate process, to check that the user does not see TensorFlow's messages."""
    lossy = bind(prepare__vocabulary=model, prepare__allow_lossy_vocabulary=True)
    arguments = [*TEXTS, *lossy, *bind(prepare__num_processes=2)]
    result = subprocess.run(
        command("--output=stores/two", *arguments),
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("files: .txt ")
    assert re.search(r"^writing \d+ shards, 2 at a time$", result.stdout, re.MULTILINE)
    assert "\nstores/two train: 11 documents, " in result.stdout
    prepare("stores/one", *arguments)
    assert contents(place / "stores/two") == contents(place / "stores/one")
    assert not any(str(place).encode() in file for file in contents(place).values() if file)


def start(place: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        command("--output=store", *arguments),
        cwd=place,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_until(happens, process: subprocess.Popen):
    deadline = time.monotonic() + 120
    while not happens():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def members(session: int) -> list[int]:
    """The processes of a command: itself and its workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for_the_end_of_all(process: subprocess.Popen):
    deadline = time.monotonic() + 10
    while members(process.pid):
        assert time.monotonic() < deadline, "the workers should end with the command"
        time.sleep(0.01)


@pytest.mark.slow
def test_the_same_command_continues_after_a_kill(place, prepare, run):
    """SIGKILL while two workers write. Before that, a second command is refused."""
    arguments = mine("slow_lines", prepare__num_processes=2)
    partial = place / "store.partial"
    process = start(place, *arguments)
    wait_until(lambda: len(list(partial.glob("train-*.json"))) >= 2, process)
    os.killpg(process.pid, signal.SIGSTOP)
    status, out, err = run("--output=store", *arguments)
    assert (status, out) == (2, "")
    assert err == (
        f"error: another prepare_data is writing to {partial}: wait until it ends, or name "
        "another --output\n"
    )
    assert len(members(process.pid)) >= 3
    process.kill()
    os.killpg(process.pid, signal.SIGCONT)
    process.communicate()
    wait_for_the_end_of_all(process)

    finished = {path: path.stat().st_mtime_ns for path in partial.glob("train-*.tokens")}
    assert not (place / "store").exists() and 2 <= len(finished) < 8
    (partial / "train-00000.tokens.123.tmp").write_bytes(b"what a killed process leaves")
    out = prepare("store", *mine("slow_lines"))
    assert f"{len(finished)} of 9 shards are already complete\n" in out
    for path, moment in finished.items():
        assert (place / "store" / path.name).stat().st_mtime_ns == moment
    prepare("undisturbed", *mine("slow_lines"))
    assert contents(place / "store") == contents(place / "undisturbed")
    assert not partial.exists()
    assert "store is already complete\nstore train: 48 documents" in prepare(
        "store", *mine("slow_lines")
    )


@pytest.mark.long
@pytest.mark.slow
def test_kills_at_random_moments(place, prepare):
    """The moments are counted from the start of the work, which is later on a busy machine."""
    arguments = mine("slow_lines", prepare__num_processes=2)
    lock = place / "store.partial" / "lock"
    for seconds in np.random.default_rng(0).uniform(0, 15, size=4):
        lock.unlink(missing_ok=True)
        process = start(place, *arguments)
        wait_until(lambda: lock.exists() or (place / "store").exists(), process)
        time.sleep(seconds)
        process.kill()
        process.communicate()
    prepare("store", *mine("slow_lines"))
    prepare("undisturbed", *mine("slow_lines"))
    assert contents(place / "store") == contents(place / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_by_signal(place, number):
    """Ctrl-C also reaches the workers; SIGTERM only reaches the command."""
    process = start(place, *mine("slow_lines", prepare__num_processes=2))
    wait_until(lambda: list(place.glob("store.partial/train-*.json")), process)
    for pid in members(process.pid) if number == signal.SIGINT else [process.pid]:
        os.kill(pid, number)
    out, _ = process.communicate()
    assert process.returncode == 75
    assert out.endswith("stopped: run the same command again to continue\n") and "Trace" not in out
    wait_for_the_end_of_all(process)


@pytest.mark.slow
def test_a_worker_that_is_killed(place):
    process = start(place, *mine("slow_lines", prepare__num_processes=2))
    wait_until(lambda: list(place.glob("store.partial/train-*.json")), process)
    os.kill(max(members(process.pid)), signal.SIGKILL)
    out, _ = process.communicate()
    assert process.returncode == 2
    assert out.endswith(
        "error: a worker process ended with exit status -9: if memory ran out, lower "
        "prepare.num_processes; finished shards are kept\n"
    )


def test_full_disk(place, run, prepare, monkeypatch):
    written = 0

    def write(self, data):
        nonlocal written
        written += 1
        if written > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(self, data)

    real_write = _File.write
    monkeypatch.setattr(_File, "write", write)
    status, _, err = run("--output=store", *ONE_PROCESS, *TEXTS)
    assert status == 2 and err == (
        f"error: cannot write to {place}/store.partial (No space left on device): free some space "
        "and run the same command again; finished shards are kept\n"
    )
    monkeypatch.undo()
    os.chdir(place)
    assert not (place / "store").exists() and not (place / "store.partial/store.json").exists()
    assert "of 19 shards are already complete" in prepare("store", *TEXTS)
    prepare("undisturbed", *TEXTS)
    assert contents(place / "store") == contents(place / "undisturbed")


@pytest.mark.long
@pytest.mark.slow
def test_memory_does_not_grow_with_a_document(place):
    """Peak memory with a document of 50 MB and with one of 400 MB, as bytes."""
    peaks = []
    for megabytes in (50, 400):
        folder = place / f"{megabytes}"
        folder.mkdir()
        (folder / "short.txt").write_text("short")
        with open(folder / "long.txt", "wb") as file:
            for _ in range(megabytes):
                file.write(b"0123456789abcde " * 62500)
        options = bind(data__path=str(folder))
        arguments = f"--output={megabytes}.store", *TEXTS, *ONE_PROCESS, *options
        peaks.append(peak_megabytes(*arguments))
    assert peaks[1] < peaks[0] + 100, f"{peaks} MB"
