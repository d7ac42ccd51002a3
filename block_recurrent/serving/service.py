"""What all routes share, and how they answer a request for a completion."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import numpy as np
from jaxtyping import Int
from starlette.requests import Request
from starlette.responses import Response

from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.generation.generator import Generator
from block_recurrent.serving.admission import Slots, read_body
from block_recurrent.serving.api_errors import Json
from block_recurrent.serving.completion_request import parse_json, read_prompts
from block_recurrent.serving.completions import (
    Completion,
    choice_content,
    new_answer,
    whole_choices,
)
from block_recurrent.serving.engine import Engine
from block_recurrent.serving.event_stream import EventStream
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.prefix_cache import state_bytes
from block_recurrent.serving.session_files import SessionFiles
from block_recurrent.serving.sessions import Sessions
from block_recurrent.serving.submission import Submissions
from block_recurrent.serving.token_names import TokenNames

# Called with the request's work, after the last token and before it is sent.
Finish = Callable[[Submissions], Awaitable[None]]


class Service:
    """A model and everything that answers for it.

    Args:
      name: of the model, for clients.
      generator: the model.
      vocabulary: its vocabulary.
      files: of the sessions.
      limits: of the server.
    """

    def __init__(
        self,
        name: str,
        generator: Generator,
        vocabulary: Vocabulary,
        files: SessionFiles,
        limits: Limits,
    ):
        self.name, self.generator, self.vocabulary = name, generator, vocabulary
        self.limits, self.names = limits, TokenNames(vocabulary)
        self.engine = Engine(
            generator,
            rows=limits.rows,
            end_token=vocabulary.end_id,
            cache_bytes=limits.cache_bytes,
        )
        size = state_bytes(self.engine.reader.beginning)
        self.sessions = Sessions(files, vocabulary, limits, size)
        self.slots = Slots(limits.max_requests)

    @contextlib.asynccontextmanager
    async def slot(self):
        """Holds one of the places of requests that are answered at the same time."""
        self.slots.take()
        try:
            yield
        finally:
            self.slots.release()

    async def content(self, request: Request) -> dict[str, Any]:
        """The JSON object that a request sends."""
        return parse_json(await read_body(request, self.limits))

    async def prompts(self, prompt: object, choices: int = 1) -> list[Int[np.ndarray, " length"]]:
        """The tokens of the prompts, in another thread. See `read_prompts`."""
        return await asyncio.to_thread(
            read_prompts, prompt, self.vocabulary, self.generator, self.limits, choices
        )

    def work(self, request: Request) -> Submissions:
        """What a request gives to the engine."""
        return Submissions(self.engine, request.receive, self.limits.max_seconds)

    async def answer(
        self,
        request: Request,
        completion: Completion,
        held: contextlib.AsyncExitStack,
        finish: Finish | None = None,
    ) -> Response:
        """The answer to a request. `held` is closed at the end of a stream."""
        if completion.request.stream:
            events = self._events(request, completion, finish)
            return EventStream(events, held.pop_all(), self.limits.max_seconds)
        async with self.work(request) as work:
            pieces = completion.pieces(work)
            choices = await whole_choices(pieces, len(completion.written))
            if finish:
                await finish(work)
        usage = completion.usage.content()
        return Json(new_answer(self.name) | {"choices": choices, "usage": usage})

    async def _events(
        self, request: Request, completion: Completion, finish: Finish | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        answer = new_answer(self.name)
        async with self.work(request) as work:
            async for index, piece in completion.pieces(work):
                if piece.end and finish:
                    await finish(work)
                yield answer | {"choices": [choice_content(index, piece)]}
        if completion.request.sends_usage:
            yield answer | {"choices": [], "usage": completion.usage.content()}
