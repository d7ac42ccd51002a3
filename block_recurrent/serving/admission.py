"""Which requests a server takes: at most so many at the same time, and none that are too long."""

import asyncio

from starlette.requests import Request

from block_recurrent.serving.api_errors import ApiError
from block_recurrent.serving.limits import Limits


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
