"""Work that a request gives to the engine, as seen from the event loop of the server."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np

from block_recurrent.serving.api_errors import ApiError, ClientGone
from block_recurrent.serving.engine import Call, Engine, Event, Failed, PromptRead, Returned, Work

MAX_LENGTH = 2**31 - 1  # tokens of a document, counted in 32 bits


class Submissions:
    """The work of one request. It is cancelled when the context ends, if it is not done::

        async with Submissions(engine, request.receive, max_seconds) as work:
            work.submit(tokens=…, choices=1, num_tokens=100)
            async for index, event in work.events():
                ...

    Args:
      engine: does the work.
      receive: of the request, whose body has been read. It then waits for the client to go.
      max_seconds: limit of the time from now on.
    """

    def __init__(self, engine: Engine, receive: Callable[[], Awaitable], max_seconds: int):
        self._engine, self._receive, self._max_seconds = engine, receive, max_seconds
        self._works: list[Work | Call] = []
        self._events: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

    async def __aenter__(self) -> "Submissions":
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + self._max_seconds
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_):
        self._watching.cancel()
        for work in self._works:
            work.cancelled = True

    def submit(self, **fields) -> Work:
        """Gives work to the engine. `fields` are those of `Work`.

        Raises:
          ApiError: the document would be too long.
        """
        work = Work(send=functools.partial(self._send, len(self._works)), **fields)
        before = 1 if work.state is None else int(np.asarray(work.state.length)[0])
        if before + len(work.tokens) + work.num_tokens > MAX_LENGTH:
            raise ApiError(
                400,
                f"the document would have more than {MAX_LENGTH:,} tokens: begin another session",
                code="document_too_long",
            )
        self._works.append(work)
        self._engine.submit(work)
        return work

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Number of the work, and event, until the caller has what it wants.

        Raises:
          ClientGone: the client has closed the connection.
          ApiError: the time is over, or the engine has failed.
        """
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    index, event = await self._events.get()
            except TimeoutError:
                raise ApiError(
                    503,
                    f"the request has taken {self._max_seconds:g} seconds (--max_seconds): ask for "
                    "less, or try again when the server is less busy",
                    code="time_limit",
                ) from None
            if event is None:
                raise ClientGone
            if isinstance(event, Failed):
                raise ApiError(500, event.message)
            yield index, event

    async def read(self, **fields) -> PromptRead:
        """Reads a prompt and nothing else, when nothing else is being done."""
        index = len(self._works)
        self.submit(**fields)
        async for number, event in self.events():
            if number == index and isinstance(event, PromptRead):
                return event

    async def call(self, function: Callable[[], Any]) -> Any:
        """The result of a function that the engine calls, when nothing else is being done.

        Raises what the function raises. See `Call`.
        """
        index = len(self._works)
        call = Call(function, functools.partial(self._send, index))
        self._works.append(call)
        self._engine.submit(call)
        async for number, event in self.events():
            if number == index and isinstance(event, Returned):
                if event.error:
                    raise event.error
                return event.value

    def _send(self, index: int, event: Event):
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def _watch(self):
        """Waits for the client to go."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._events.put_nowait((0, None))
