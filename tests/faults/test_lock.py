"""Two training processes in one folder."""

import multiprocessing
import os
import signal

import pytest

from block_recurrent import UserError
from block_recurrent.training.workdir import workdir_lock
from runs import SharingTrainer


def hold(workdir, ready):
    """Locks the folder until the process is killed."""
    with workdir_lock(workdir):
        ready.set()
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Another process, which has locked `tmp_path`."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_the_second_training_is_refused_while_the_first_runs(holder, finished, config, tmp_path):
    who = f"process {holder.pid} on {os.uname().nodename}"
    for _ in range(2):
        with pytest.raises(UserError, match=f"is in use by another training \\({who}\\): wait"):
            SharingTrainer(config, tmp_path).run()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    holder.kill()
    holder.join()
    with workdir_lock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"process {os.getpid()} on {os.uname().nodename}"
    assert not list(tmp_path.iterdir())


def test_a_folder_is_unlocked_when_a_training_fails(tmp_path):
    with pytest.raises(RuntimeError, match="failed"), workdir_lock(tmp_path):
        raise RuntimeError("failed")
    with workdir_lock(tmp_path):
        pass


def test_a_file_system_without_locks_is_not_locked(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with workdir_lock(tmp_path):
        pass
