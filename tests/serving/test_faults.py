"""Clients that misbehave, and moments at which sessions could be lost."""

import asyncio
import contextlib
import functools
import signal
import socket
import time

import httpx
import numpy as np
import pytest

import block_recurrent.serving.event_stream
import block_recurrent.serving.server
from block_recurrent import Generator
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.serving.api_errors import MAX_MESSAGE, ApiError
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.session_files import SessionFiles
from block_recurrent.serving.sessions import Sessions
from block_recurrent.serving.submission import Submissions
from loopback import running
from tiny import variant_model

ENDLESS = {"prompt": "def main(", "max_tokens": 50_000, "temperature": 0, "n": 2, "stream": True}


@functools.cache
def generator() -> Generator:
    return Generator(variant_model("fixed_skip"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for module in ("event_stream", "server"):
            patch.setattr(getattr(block_recurrent.serving, module), "GRACE", 1)
        folder = tmp_path_factory.mktemp("sessions")
        with running(generator(), folder, rows=2, max_requests=2, max_seconds=1) as server:
            yield server


def wait_for(condition, seconds: float = 30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def connect(server, **options: int) -> socket.socket:
    host, port = server.address.removeprefix("http://").split(":")
    one = socket.socket()
    for name, value in options.items():
        one.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    one.connect((host, int(port)))
    return one


LARGE = {"prompt": 5000 * "a", "echo": True, "n": 128}


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux drops them")
@pytest.mark.parametrize(
    "path, body",
    [
        ("/tokenize", {"prompt": 500_000 * "a"}),
        pytest.param("/v1/completions", ENDLESS | LARGE, marks=pytest.mark.slow),
    ],
)
def test_a_slow_reader_is_dropped_at_the_deadline(path, body, server):
    """It asks for more than the buffers of the connection hold, and reads nothing."""
    server.server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    url, one = server.address + path, {"prompt": body["prompt"], "max_tokens": 1}
    wait_for(lambda: httpx.post(url, json=one, timeout=60).status_code == 200)  # compiled
    asked = httpx.Request("POST", url, json=body).read()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(asked)}\r\n\r\n"
    wait_for(lambda: not connections(server))
    with connect(server, SO_RCVBUF=4096) as slow:
        slow.sendall(head.encode() + asked)
        wait_for(lambda: any(one.transport.get_write_buffer_size() for one in connections(server)))
        wait_for(lambda: not connections(server))
        assert not server.service.slots.taken


def connections(server) -> set:
    return server.server._http.server_state.connections


def test_many_idle_connections_keep_nobody_out(server):
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(server))
        assert httpx.get(f"{server.address}/health").status_code == 200


@pytest.mark.parametrize("name", ["Host", "Origin"])
def test_headers_that_are_no_address(name, server):
    answer = httpx.get(f"{server.address}/v1/models", headers={name: "http://["})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, name.lower())


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"a" * 100_000: 1}, "has no field 'aaa"),
        ({"n": "a" * 100_000}, "must be an integer"),
        ({"stop": "a" * 257}, "stop: at most 256 characters in a text"),
        ({"logit_bias": dict.fromkeys(map(str, range(10_000)), 1)}, "not supported by this server"),
    ],
    ids=["name", "value", "stop", "field that is not there"],
)
def test_huge_fields_give_short_errors(fields, message, server):
    answer = httpx.post(f"{server.address}/v1/completions", json=fields)
    found = answer.json()["error"]["message"]
    assert answer.status_code == 400 and message in found and len(found) < MAX_MESSAGE + 10


def test_a_second_interrupt_loses_no_session(tmp_path):
    with running(generator(), tmp_path, rows=2) as server:
        url = f"{server.address}/v1/sessions"
        created = httpx.post(url, json={"prompt": "a"}, timeout=60).json()
        server.stop(signal.SIGINT)
        server.stop(signal.SIGINT)
    assert (tmp_path / f"{created['id']}.safetensors").exists()


def test_a_document_whose_length_could_not_be_counted_is_refused(server):
    async def test():
        state = generator().start()
        state = state._replace(length=np.array([2**31 - 10], np.int32))
        async with Submissions(server.service.engine, asyncio.Event().wait, 1) as work:
            with pytest.raises(ApiError, match="more than 2,147,483,647 tokens: begin another"):
                work.submit(tokens=np.zeros(5, np.int32), state=state, num_tokens=5)

    asyncio.run(test())


def with_sessions(folder, test, **limits):
    """Runs a test with sessions in an event loop."""

    async def body():
        with SessionFiles(folder, generator()).opened() as files:
            sessions = Sessions(files, ByteVocabulary(), Limits(**limits), 0)
            await test(files, sessions)

    asyncio.run(body())


def test_an_error_while_serving_is_not_blamed_on_the_folder(tmp_path):
    with pytest.raises(BrokenPipeError), SessionFiles(tmp_path, generator()).opened():
        raise BrokenPipeError
    assert not list(tmp_path.iterdir()), "it is not locked any more"


def test_a_session_deleted_while_others_leave_the_memory_stays_deleted(monkeypatch, tmp_path):
    async def test(files, sessions):
        state, loop, write = generator().start(), asyncio.get_running_loop(), files.write
        first, second = [await sessions.create(state, []) for _ in range(2)]

        def slow_write(*arguments):
            write(*arguments)
            if second.name in dict(sessions._all):
                asyncio.run_coroutine_threadsafe(sessions.delete(second.name), loop).result()

        monkeypatch.setattr(files, "write", slow_write)
        sessions._limits = Limits(device_sessions=1)  # both must leave
        await sessions.create(state, [])
        assert list(files.found()) == [first.name]

    with_sessions(tmp_path, test)


def test_a_session_whose_files_cannot_be_removed_can_be_deleted_later(monkeypatch, tmp_path):
    async def test(files, sessions):
        session = await sessions.create(generator().start(), [])
        await sessions.save(session)
        with monkeypatch.context() as patch, pytest.raises(ApiError, match="read-only"):
            patch.setattr(files, "remove", fail)
            await sessions.delete(session.name)
        await sessions.delete(session.name)
        assert not files.found() and not len(sessions)

    with_sessions(tmp_path, test)


def test_all_sessions_that_can_be_written_are_written_at_the_end(monkeypatch, tmp_path):
    async def test(files, sessions):
        names = [(await sessions.create(generator().start(), [])).name for _ in range(3)]
        write = files.write
        monkeypatch.setattr(
            files, "write", lambda name, *rest: fail() if name == names[0] else write(name, *rest)
        )
        with pytest.raises(ApiError, match="read-only"):
            await sessions.write_all()
        assert sorted(files.found()) == sorted(names[1:])

    with_sessions(tmp_path, test)


def fail(*_):
    raise OSError("read-only")
