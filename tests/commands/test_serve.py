"""``python -m block_recurrent.serve``: mistakes in the command, and a whole life of a server."""

import contextlib
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from block_recurrent import UserError, serve


def run(monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    serve.main()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--host=0.0.0.0"], "--host=0.0.0.0 can be reached from other machines: give a --token_f"),
        (["--host=example.org"], "--host=example.org can be reached from other machines"),
        (["--token_file=missing"], "cannot read --token_file=missing"),
        (["--token_file=short"], "--token_file=short needs one line of at least 16 characters"),
        (["--port=70000"], "cannot listen at --host=127.0.0.1 --port=70000"),
        (["--port=0", "--model=missing"], "cannot read the model missing"),
        (["--port=0", "--rows=0"], "rows = 0: must be at least 1"),
        (["--port=0", "--sessions=short"], "cannot use --sessions=short (File exists)"),
        (["--port=0", "--step=3"], "--step, --weights and --average need --workdir"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(arguments, message, monkeypatch, tmp_path):
    (tmp_path / "short").write_text("secret")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        run(monkeypatch, *arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_the_extra_is_missing(monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("block_recurrent.serving.", "starlette")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(UserError) as error:
        run(monkeypatch, "--host=example.org")
    message = str(error.value)
    assert message.startswith("serving needs starlette")
    assert message.endswith("pip install -e '.[serve]'")


def test_a_port_that_is_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port} .*: choose another port"):
            run(monkeypatch, f"--port={port}")


@pytest.mark.slow
def test_a_server_from_start_to_stop(tmp_path):
    """The included model; a request that is being answered when SIGTERM comes is finished."""
    command = [sys.executable, "-m", "block_recurrent.serve", "--port=0", f"--sessions={tmp_path}"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)  # else a failed test would wait for its end
        line = process.stdout.readline()
        pattern = r"serving (\w+) at ((http\S+)/v1) and, for browsers, \3/\n"
        name, url, _ = re.fullmatch(pattern, line).groups()
        assert name == "stdlib"
        session = httpx.post(f"{url}/sessions", json={"prompt": "class Queue:"}, timeout=60).json()
        asked = {"prompt": "import ", "max_tokens": 300, "stream": True, "seed": 3}
        with httpx.stream("POST", f"{url}/completions", json=asked, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == [f"{session['id']}.safetensors"]
