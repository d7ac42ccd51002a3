"""The limits of a server."""

import dataclasses
from typing import Annotated

from block_recurrent.fields import Range, checked

Positive = Annotated[int, Range(1)]


@checked
@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests. Beyond them, a request is refused with an error that names the limit.

    Attributes:
      rows: continuations that are written at the same time; the others wait.
      max_requests: requests that are answered at the same time, with those that wait.
      max_body: bytes of a request.
      max_prompt_tokens: tokens of all prompts of a request, and of an answer with echoes or
        log-probabilities.
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
