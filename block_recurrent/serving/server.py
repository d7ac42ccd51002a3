"""The server: the engine in this thread, HTTP in another one."""

import asyncio
import signal
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from block_recurrent.errors import UserError
from block_recurrent.serving.api_errors import ERROR_ANSWERS
from block_recurrent.serving.completion_routes import completion_routes
from block_recurrent.serving.event_stream import GRACE
from block_recurrent.serving.gate import Gate
from block_recurrent.serving.page_routes import PUBLIC, page_routes
from block_recurrent.serving.service import Service
from block_recurrent.serving.session_routes import session_routes


class Server:
    """Serves a model until it is told to stop::

        server = Server(service, listen("127.0.0.1", 8000))
        signal.signal(signal.SIGTERM, server.stop)
        server.run()

    The engine runs in the thread that calls `run`, because the C library reuses memory best in the
    main thread.

    Args:
      service: what is served.
      listener: the socket.
      token: see `Gate`.
    """

    def __init__(self, service: Service, listener: socket.socket, token: str | None = None):
        self._engine, self._sessions = service.engine, service.sessions
        self._listener, self._failure = listener, None
        seconds = service.limits.max_seconds + GRACE
        _drop_slow_readers(listener, seconds)
        self.app = Starlette(
            routes=[
                *completion_routes(service),
                *session_routes(service),
                *page_routes(service, needs_token=token is not None),
            ],
            middleware=[Middleware(Gate, token=token, public=PUBLIC)],
            exception_handlers=ERROR_ANSWERS,
        )
        self._http = uvicorn.Server(
            uvicorn.Config(
                self.app,
                lifespan="off",
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=seconds + GRACE,
            )
        )

    def run(self):
        """Answers requests until `stop`. Finishes what has begun, and writes the sessions to disk.

        Raises:
          UserError: a session could not be written.
        """
        thread = threading.Thread(target=self._serve)
        thread.start()
        try:
            self._engine.run()
        finally:
            self._http.should_exit = True
            thread.join()
        if self._failure:
            raise UserError(f"the server has stopped, but {self._failure}")

    def stop(self, signum: int = signal.SIGTERM, frame=None):
        """Takes no more requests. A second SIGINT also ends those that have begun."""
        self._http.handle_exit(signum, frame)

    def _serve(self):
        try:
            self._http.run(sockets=[self._listener])
            # Not at the end of uvicorn's lifespan, which a second SIGINT leaves out.
            asyncio.run(self._sessions.write_all())
        except Exception as error:
            self._failure = error
        finally:
            self._engine.stop()


def _drop_slow_readers(listener: socket.socket, seconds: int):
    """Lets the system end connections whose client takes nothing for so long, where it can."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        milliseconds = min(1000 * seconds, 2**31 - 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
      UserError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at --host={host} --port={port} ({error}): choose another port"
        ) from error
