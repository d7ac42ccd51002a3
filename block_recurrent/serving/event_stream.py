"""Server-sent events, the API's form of a stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

GRACE = 10  # seconds after the request's time for the client to take what is left
DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """An answer in parts, which ends when the client goes or does not read on in time.

    Args:
      events: the parts.
      held: closed at the end, however it comes.
      max_seconds: limit of the time for all of it.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        held: contextlib.AsyncExitStack,
        max_seconds: int,
    ):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._held, self._max_seconds = held, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        async with self._held, contextlib.aclosing(self.body_iterator):
            with contextlib.suppress(TimeoutError, ClientDisconnect):
                async with asyncio.timeout(self._max_seconds + GRACE):
                    await super().__call__(scope, receive, send)


def event(content) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"
