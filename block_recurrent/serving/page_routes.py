"""The page at `/`, and `/v1/readings`, from which it gets what the model does in a text."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
from flax import nnx
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from block_recurrent.analysis.page import live_page, page_data
from block_recurrent.analysis.reading import Reader
from block_recurrent.errors import UserError
from block_recurrent.serving.api_errors import ApiError
from block_recurrent.serving.completion_request import (
    CompletionRequest,
    parse_completion,
    without_start,
)
from block_recurrent.serving.completion_text import BEFORE
from block_recurrent.serving.completions import Completion
from block_recurrent.serving.event_stream import EventStream
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.prefix_cache import PrefixCache
from block_recurrent.serving.service import Service
from block_recurrent.serving.submission import Submissions
from block_recurrent.serving.text_reading import TextReading

PUBLIC = "/", "/favicon.ico"  # what a browser asks for without a token
HEADERS = {"Content-Security-Policy": "frame-ancestors 'none'", "Cache-Control": "no-cache"}


def page_routes(service: Service, *, needs_token: bool) -> list[Route]:
    """The routes of the page of one model. `needs_token` is whether there is a `Gate` with one."""
    generator = service.generator
    page = live_page(f"The memory of {service.name}", needs_token=needs_token)
    reader = Reader(nnx.merge(generator.graphdef, generator.params))
    states = PrefixCache(service.limits.cache_bytes)
    compiling, compiled = asyncio.Lock(), asyncio.Event()

    def check_recurrent():
        if not generator.config.recurrent_layers:
            raise ApiError(
                404,
                f"{service.name} has no recurrent layers to look at: serve a model that has some",
                code="no_memory",
            )

    async def show(_: Request) -> Response:
        check_recurrent()
        return HTMLResponse(page, headers=HEADERS)

    async def read(request: Request) -> Response:
        check_recurrent()
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(service.slot())
            content = await service.content(request)
            known, asked = parse_reading(content, service.limits)
            prompts = await service.prompts(content.get("prompt", ""))
            async with compiling:  # once, and where it keeps neither the engine nor the loop
                if not compiled.is_set():
                    await asyncio.to_thread(compile_reader)
                    compiled.set()
            reading = begin(prompts, known, asked)
            events = follow(service, request, reading, asked)
            return EventStream(events, held.pop_all(), service.limits.max_seconds)

    def compile_reader():
        reader.read_block(reader.start(), np.zeros(1, np.int32), 0)

    def begin(prompts, known: int, asked: CompletionRequest | None) -> TextReading:
        if len(prompts) != 1:
            raise UserError(f"{len(prompts)} prompts: a reading has one text: send only one")
        tokens = without_start(prompts[0])
        if known > len(tokens):
            raise UserError(f"known = {known}: the text has only {len(tokens):,} tokens")
        if not len(tokens) and not asked:
            raise UserError(
                "there is no text to read: give some, or let the model go on (max_tokens)"
            )
        return TextReading(reader, states, tokens, known)

    async def no_icon(_: Request) -> Response:
        return Response(status_code=204)

    return [
        Route("/", show),
        Route("/favicon.ico", no_icon),
        Route("/v1/readings", read, methods=["POST"]),
    ]


def parse_reading(content: dict[str, Any], limits: Limits) -> tuple[int, CompletionRequest | None]:
    """How many tokens the client knows, and how to go on; None: not at all.

    Raises:
      UserError: a field is unknown or invalid, or beyond the limits.
    """
    fields = dict(content)
    known = fields.pop("known", 0)
    if type(known) is not int or known < 0:
        raise UserError(f"known = {known!r}: give the number of tokens whose results are there")
    asked = parse_completion(fields, limits)
    if asked.n != 1 or asked.echo or asked.logprobs is not None:
        raise UserError("a reading has one continuation: leave out n, echo and logprobs")
    return known, asked if "max_tokens" in fields else None


async def follow(
    service: Service, request: Request, reading: TextReading, asked: CompletionRequest | None
) -> AsyncGenerator[dict[str, Any], None]:
    """Reads the text and goes on with it. Yields the content of each event."""
    try:
        async with service.work(request) as turns, service.work(request) as writing:
            async for content in read_on(service, turns, reading, ended=asked is None):
                yield content
            if asked:
                async for content in go_on(service, turns, writing, reading, asked):
                    yield content
    finally:
        reading.remember()


async def go_on(
    service: Service,
    turns: Submissions,
    writing: Submissions,
    reading: TextReading,
    asked: CompletionRequest,
) -> AsyncGenerator[dict[str, Any], None]:
    """Lets the model continue the text, and reads what it writes."""
    length = len(reading.tokens)
    completion = Completion(asked, [reading.tokens], service.vocabulary, service.names)
    async for _, piece in completion.pieces(writing):
        new = completion.written[0][len(reading.tokens) - length :]
        reading.tokens = np.concatenate([reading.tokens, np.array(new, np.int32)])
        async for content in read_on(service, turns, reading, ended=piece.end is not None):
            yield content
        if piece.end:
            yield progress(reading) | {"end": piece.end}


async def read_on(
    service: Service, turns: Submissions, reading: TextReading, *, ended: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Reads the text so far. `ended` is whether it ends there."""
    while not reading.finished:
        part = await turns.call(reading.step)
        content = progress(reading)
        if part:
            content["first"] = part.first
            content["part"] = await asyncio.to_thread(
                page_data,
                service.name,
                service.generator.config,
                service.vocabulary,
                part.reading,
                reading.tokens[max(0, part.first - BEFORE) : part.first],
                ended=ended and reading.finished,
            )
        yield content


def progress(reading: TextReading) -> dict[str, Any]:
    """How much of the text has been read."""
    return {"read": reading.num_read, "tokens": len(reading.tokens)}
