"""Sessions: documents of any length in constant memory, on the device or on disk."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import httpx
import jax
import numpy as np
import pytest

from block_recurrent import Generator
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError
from block_recurrent.serving.session_files import SAVED, SessionFiles
from loopback import running
from tiny import make_model

TEXT = "the state of a block is carried from one window to the next. " * 3


@pytest.fixture(scope="module")
def server(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    with running(generator, folder, rows=2, device_sessions=2, max_sessions=6) as server:
        server.folder = folder
        yield server


class Client:
    """The sessions of a server, as a program uses them."""

    def __init__(self, server):
        self._http = httpx.Client(base_url=f"{server.address}/v1", timeout=60)

    def __call__(self, method: str, path: str = "", status: int = 200, **body) -> dict:
        answer = self._http.request(method, f"sessions/{path}".rstrip("/"), json=body or None)
        assert answer.status_code == status, answer.text
        return answer.json()

    def create(self, prompt: str = TEXT) -> str:
        return self("POST", prompt=prompt, status=201)["id"]

    def write(self, name: str, **fields) -> str:
        return self("POST", f"{name}/completions", **fields)["choices"][0]["text"]


@pytest.fixture
def client(server):
    """Removes all sessions afterwards."""
    one = Client(server)
    yield one
    for session in one("GET")["data"]:
        one("DELETE", session["id"])


ASKED = {"seed": 7, "max_tokens": 20}


def alone(generator, tokens: list[int]) -> tuple[str, list[int]]:
    """What the generator writes after these tokens, without a token that ends the document."""
    (row,) = generator.generate([tokens], 20, seed=7, stop_tokens=[ByteVocabulary.end_id])
    new = [token for token in row.tolist() if token != ByteVocabulary.end_id]
    return ByteVocabulary().decode(new).decode("utf-8", "replace"), new


def encode(text: str) -> list[int]:
    return ByteVocabulary().encode(text.encode()).tolist()


def test_a_session_is_its_text(client, generator):
    """Reading in parts and going on gives what the whole text gives."""
    name = client.create(TEXT[:50])
    shown = client("POST", f"{name}/append", prompt=TEXT[50:])
    assert shown["tokens"] == len(TEXT)
    text, new = alone(generator, encode(TEXT))
    assert client.write(name, **ASKED) == text != ""
    more, _ = alone(generator, [*encode(TEXT), *new, *encode(" and ")])
    assert client.write(name, prompt=" and ", **ASKED) == more != text


def test_a_stream_changes_the_session_as_well(client, server):
    name, other = client.create(), client.create()
    client.write(name, **ASKED)
    url = f"{server.address}/v1/sessions/{other}/completions"
    with httpx.stream("POST", url, json=ASKED | {"stream": True}, timeout=60) as stream:
        assert stream.read().endswith(b"data: [DONE]\n\n")
    assert client("GET", other)["tokens"] == client("GET", name)["tokens"] > len(TEXT)
    assert client.write(name, **ASKED) == client.write(other, **ASKED)


def test_a_stop_text_is_the_last_that_a_session_has_read(client, server):
    name, other = client.create(), client.create()
    text = client.write(name, seed=5, max_tokens=40)
    stop = text[10:13]
    place = text.index(stop)
    assert client.write(other, seed=5, max_tokens=40, stop=stop) == text[:place]
    assert client("GET", other)["tokens"] < client("GET", name)["tokens"]


def test_a_fork_goes_its_own_way(client):
    name = client.create()
    other = client("POST", f"{name}/fork", status=201)["id"]
    first = client.write(name, **ASKED)
    client("POST", f"{name}/append", prompt=" something else")
    assert client.write(other, **ASKED) == first


def test_bytes_do_not_grow(client):
    name = client.create("")
    before = client("GET", name)
    after = client("POST", f"{name}/append", prompt=TEXT * 40)
    assert after["tokens"] == 40 * len(TEXT)
    assert before["bytes"] == after["bytes"] > 0


def test_restore_undoes_what_came_after_save(client):
    name = client.create()
    assert "has not been saved" in client("POST", f"{name}/restore", status=409)["error"]["message"]
    client("POST", f"{name}/save")
    first = client.write(name, **ASKED)
    assert client("POST", f"{name}/restore")["tokens"] == len(TEXT)
    assert client.write(name, **ASKED) == first


def test_idle_sessions_are_on_disk_and_come_back(client, server, generator):
    names = [client.create(TEXT[:n]) for n in (30, 40, 50, 60)]
    places = {each["id"]: each["place"] for each in client("GET")["data"]}
    assert [places[name] for name in names] == ["disk", "disk", "device", "device"]
    for name, length in zip(names, (30, 40, 50, 60), strict=True):
        assert client.write(name, **ASKED) == alone(generator, encode(TEXT[:length]))[0]
    files = {path.name for path in server.folder.iterdir()} - {"lock"}
    assert files <= {f"{name}.safetensors" for name in names}
    sizes = {path.stat().st_size for path in server.folder.glob("*.safetensors")}
    assert len(sizes) == 1, "all sessions have the same size"


def test_errors(client):
    missing = client("POST", "session-none/append", prompt="a", status=404)["error"]
    assert missing["code"] == "not_found" and "'session-none'" in missing["message"]
    name = client.create()
    assert (
        "leave out n" in client("POST", f"{name}/completions", n=2, status=400)["error"]["message"]
    )
    two = client("POST", f"{name}/append", prompt=["a", "b"], status=400)["error"]["message"]
    assert two == "2 prompts: a session reads one at a time: send only one"
    names = [client.create("") for _ in range(5)]
    error = client("POST", prompt="a", status=429)["error"]
    assert error["code"] == "too_many_sessions"
    client("DELETE", names[0])
    client("GET", names[0], status=404)


def test_a_client_that_hangs_up_leaves_the_session_as_it_was(client, server, generator):
    name = client.create()
    url = f"{server.address}/v1/sessions/{name}/completions"
    with pytest.raises(httpx.ReadTimeout):
        soon = httpx.Timeout(30, read=0.3)
        httpx.post(url, json={"max_tokens": 50_000, "temperature": 0}, timeout=soon)
    assert client.write(name, **ASKED) == alone(generator, encode(TEXT))[0]


def test_requests_to_one_session_wait_for_each_other(client):
    name = client.create("")
    threads = [
        threading.Thread(target=client, args=("POST", f"{name}/append"), kwargs={"prompt": "abcde"})
        for _ in range(6)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert client("GET", name)["tokens"] == 30


def test_sessions_outlive_the_server(generator, tmp_path):
    with running(generator, tmp_path) as server:
        client = Client(server)
        name, deleted = client.create(), client.create()
        client("DELETE", deleted)
        text = client.write(client("POST", f"{name}/fork", status=201)["id"], **ASKED)
    (tmp_path / "session-bad.safetensors").write_bytes(b"no state")
    with running(generator, tmp_path) as server:
        client = Client(server)
        found = {each["id"]: each["tokens"] for each in client("GET")["data"]}
        assert found[name] == len(TEXT) and found["session-bad"] is None and len(found) == 3
        assert client.write(name, **ASKED) == text
        error = client("POST", "session-bad/append", prompt="a", status=507)["error"]["message"]
        assert "is not a saved state, or is damaged" in error
        with pytest.raises(UserError, match="is used by process .*: name another folder"):
            with SessionFiles(tmp_path, generator).opened():
                pass


KILLED = """
    import os, signal, sys, threading
    from pathlib import Path
    sys.path[:0] = {paths}
    from block_recurrent import Generator
    from block_recurrent.files import writing
    from block_recurrent.serving.session_files import SessionFiles
    from tiny import variant_model

    generator = Generator(variant_model("fixed_skip"))
    with SessionFiles(Path({folder!r}), generator).opened() as files:
        state = generator.read(generator.start(), [[3, 4, 5]])
        for name in ("one", "two"):
            files.write(name, state, [3, 4, 5])
            files.keep(name)
        sync = os.fsync

        def killed(descriptor):
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        writing.os.fsync = killed
        files.write("one", generator.read(state, [[6]]), [6])
"""


@pytest.mark.slow
def test_a_kill_while_a_session_is_written(generator, tmp_path):
    """The file is what it was before, the other session is unharmed, and nothing else is left."""
    program = textwrap.dedent(KILLED).format(paths=sys.path, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(tmp_path.glob("*.tmp")), "otherwise it was not killed in the middle"
    with SessionFiles(tmp_path, generator).opened() as files:
        assert files.found() == {"one": 3, "two": 3}
        expected = generator.read(generator.start(), [[3, 4, 5]])
        for name in ("one", "two"):
            for suffix in (".safetensors", SAVED):
                state, context = files.read(name, suffix)
                jax.tree.map(np.testing.assert_array_equal, state, expected)
                assert context == [3, 4, 5]
        assert not list(tmp_path.glob("*.tmp"))


def test_sessions_of_another_model_are_refused(generator, tmp_path):
    with SessionFiles(tmp_path, generator).opened() as files:
        files.write("one", generator.start(), [])
    with SessionFiles(tmp_path, Generator(make_model(seed=1))).opened() as files:
        with pytest.raises(UserError, match="with other parameters"):
            files.read("one")
