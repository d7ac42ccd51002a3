"""Which requests the server answers."""

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from block_recurrent.errors import UserError
from block_recurrent.serving.api_errors import ApiError

MIN_TOKEN = 16  # characters


class Gate:
    """Refuses requests without the token, if there is one, and requests from web pages elsewhere.

    A web page can make a browser send requests to this machine. They are recognised by their
    `Origin`, or, if the page has given this machine a name of its own, by their `Host`.

    Args:
      app: what is behind the gate.
      token: what every request must carry; None: everybody on this machine may ask.
      public: paths for which the token is not needed.
    """

    def __init__(self, app: ASGIApp, token: str | None, public: Collection[str] = ()):
        self._app, self._has_token, self._public = app, token is not None, public
        self._digest = _digest(f"Bearer {token}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        if refusal:
            await refusal.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin and _part(origin, "netloc") != host:
            return ApiError(403, "requests from other web pages are refused", code="origin")
        if self._has_token and scope["path"] not in self._public:
            given = _digest(headers.get("authorization", ""))
            if not hmac.compare_digest(given, self._digest):  # in constant time
                return ApiError(
                    401,
                    "the API key is missing or wrong: send the token of the server's --token_file",
                    code="invalid_api_key",
                )
        if not self._has_token and not is_loopback(_part(f"//{host}", "hostname") or ""):
            return ApiError(403, f"this server is not {host!r}: use its address", code="host")
        return None


def is_loopback(host: str) -> bool:
    """Whether a name or an address can only be this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file of one line.

    Raises:
      UserError: the file cannot be read, or has no token that is long enough.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --token_file={path} ({error})") from error
    if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
        raise UserError(
            f"--token_file={path} needs one line of at least {MIN_TOKEN} characters without "
            "spaces: write one with openssl rand -hex 32"
        )
    return token


def _part(address: str, name: str) -> str | None:
    """A part of an address, as `urlsplit` names it; None if it is no address."""
    try:
        return getattr(urlsplit(address), name)
    except ValueError:
        return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
