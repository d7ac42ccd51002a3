"""Server-sent events, the API's form of a stream."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from block_recurrent.serving.api_errors import ClientGone, as_api_error

GRACE = 10  # seconds after the request's time for the client to take what is left
DONE = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """An answer in parts, which ends when the client goes or does not read on in time.

    Args:
      events: the content of each part. An error becomes the last part.
      held: closed at the end, however it comes.
      max_seconds: limit of the time for all of it.
    """

    def __init__(
        self,
        events: AsyncGenerator[Any, None],
        held: contextlib.AsyncExitStack,
        max_seconds: int,
    ):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(encoded(events), headers=headers, media_type="text/event-stream")
        self._held, self._max_seconds = held, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        async with self._held, contextlib.aclosing(self.body_iterator):
            with contextlib.suppress(TimeoutError, ClientDisconnect):
                async with asyncio.timeout(self._max_seconds + GRACE):
                    await super().__call__(scope, receive, send)


async def encoded(events: AsyncGenerator[Any, None]) -> AsyncGenerator[bytes, None]:
    """The parts of a stream as they are sent."""
    async with contextlib.aclosing(events):
        try:
            async for content in events:
                yield event(content)
        except ClientGone:
            return
        except Exception as error:
            yield event(as_api_error(error).content())
            return
    yield DONE


def event(content: Any) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"
