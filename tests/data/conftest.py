"""Fixtures of the tests that run prepare_data."""

import signal

import pytest

import block_recurrent.prepare_data
from books import text_of, train_model
from preparing import ONE_PROCESS, contents, write_texts


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return str(train_model(tmp_path_factory.mktemp("vocabulary") / "t5.model"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: files of lines and of texts, and no clone."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "texts", {f"{i}.txt": text_of(i).encode() for i in range(12)})
    lines = {f"{i}.txt": b"".join(b"%d/%d\n" % (i, j) for j in range(6)) for i in range(8)}
    write_texts(tmp_path / "lines", lines)
    return tmp_path


@pytest.fixture
def run(place, run_command):
    """Runs the program in this process: (exit status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        handler = signal.getsignal(signal.SIGTERM)
        result = run_command(block_recurrent.prepare_data.main, *arguments)
        signal.signal(signal.SIGTERM, handler)
        return result

    return run


@pytest.fixture
def prepare(run):
    """Runs the program, which must succeed. Returns what it prints."""

    def prepare(output: str, *arguments: str) -> str:
        status, out, err = run(f"--output={output}", *ONE_PROCESS, *arguments)
        assert (status, err) == (0, ""), out
        return out

    return prepare


@pytest.fixture
def refuse(run, place):
    """Runs the program, which must exit with an error and no traceback. Returns the message."""

    def refuse(*arguments: str, output: str = "store") -> str:
        before = contents(place)
        status, out, err = run(f"--output={output}", *ONE_PROCESS, *arguments)
        assert (status, out) == (2, "")
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert contents(place) == before
        return err.removeprefix("error: ").rstrip()

    return refuse
