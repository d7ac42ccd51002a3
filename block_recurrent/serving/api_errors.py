"""Errors in the form of the API: ``{"error": {"message": …, "type": …, "code": …}}``."""

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from block_recurrent.errors import UserError, first_line

CLIENT_GONE = 499  # nobody reads this answer
MAX_MESSAGE = 800  # characters; it can quote what was sent
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An error, with the answer that the client gets.

    Args:
      status: the HTTP status.
      message: what is wrong and how to fix it, in one or two sentences.
      code: a word for programs.
      param: the field of the request that is wrong.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def content(self) -> dict[str, Any]:
        """The JSON of the answer."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = TYPES.get(self.status, default)
        message = shorten(self.message)
        error = {"message": message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        """The whole answer."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        return Json(self.content(), self.status, headers=headers)


class ClientGone(Exception):
    """The client has closed the connection before its answer was complete."""


class Json(Response):
    """JSON; numbers that are not finite become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def shorten(message: str) -> str:
    """The message, without its middle if it is very long."""
    half = MAX_MESSAGE // 2
    return message if len(message) <= MAX_MESSAGE else f"{message[:half]} … {message[-half:]}"


def as_api_error(error: Exception) -> ApiError:
    """The answer for any exception."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, error.detail)
    return ApiError(500, f"internal error of the server: {first_line(error)}")


async def answer_error(request: Request, error: Exception) -> Response:
    """Turns an exception of a route into its answer."""
    if isinstance(error, ClientGone | ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    return as_api_error(error).response()


ERROR_ANSWERS = dict.fromkeys(
    (ApiError, UserError, HTTPException, ClientGone, ClientDisconnect, Exception), answer_error
)
