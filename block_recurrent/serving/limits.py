"""The limits of a server."""

import asyncio
import dataclasses
from typing import Annotated

from starlette.requests import Request

from block_recurrent.fields import Range, checked
from block_recurrent.serving.api_errors import ApiError

Positive = Annotated[int, Range(1)]


@checked
@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests. Beyond them, a request is refused with an error that names the limit.

    Attributes:
      rows: continuations that are written at the same time; the others wait.
      max_requests: requests that are answered at the same time, with those that wait.
      max_body: bytes of a request.
      max_prompt_tokens: tokens of all prompts of a request.
      max_tokens: tokens that each continuation can ask for.
      max_seconds: time for a request, with its waiting.
      max_sessions: sessions that exist, in memory or on disk.
      device_sessions: idle sessions that stay in the device's memory; the others are on disk.
      cache_bytes: size of the states kept after the beginnings of prompts.
    """

    rows: Positive = 8
    max_requests: Positive = 128
    max_body: Positive = 1 << 24
    max_prompt_tokens: Positive = 1 << 20
    max_tokens: Positive = 1 << 16
    max_seconds: Positive = 600
    max_sessions: Positive = 100_000
    device_sessions: Positive = 64
    cache_bytes: Annotated[int, Range(0)] = 1 << 28


class Slots:
    """Counts the requests that are answered, and refuses those beyond the limit."""

    def __init__(self, count: int):
        self.count, self.taken = count, 0

    def take(self):
        """Begins a request.

        Raises:
          ApiError: there are too many.
        """
        if self.taken >= self.count:
            raise ApiError(
                429,
                f"the server is answering {self.count} requests, its limit (--max_requests): try "
                "again soon",
                code="too_many_requests",
            )
        self.taken += 1

    def release(self):
        """Ends a request."""
        self.taken -= 1


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request. No more of it is kept than the limit.

    Raises:
      ApiError: it is longer, or comes too slowly.
    """
    limit = limits.max_body
    too_long = ApiError(
        413,
        f"the request has more than {limit:,} bytes (--max_body): send a long document in parts, "
        "to a session",
        code="body_too_large",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.max_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_long
    except TimeoutError:
        raise ApiError(
            408, f"the request took more than {limits.max_seconds} seconds to arrive"
        ) from None
    return bytes(body)
