"""`/v1/sessions`."""

import contextlib
from typing import Any

import numpy as np
from jaxtyping import Int
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from block_recurrent.errors import UserError
from block_recurrent.serving.api_errors import Json
from block_recurrent.serving.completion_request import parse_completion, without_start
from block_recurrent.serving.completions import Completion
from block_recurrent.serving.service import Service


def session_routes(service: Service) -> list[Route]:
    """The routes of the sessions of one model."""
    sessions = service.sessions

    async def show_all(_: Request) -> Response:
        return Json({"object": "list", "data": sessions.describe_all()})

    async def create(request: Request) -> Response:
        async with service.slot():
            tokens = without_start(await new_tokens(service, await service.content(request)))
            async with service.work(request) as work:
                read = await work.read(tokens=tokens)
            session = await sessions.create(read.state, tokens.tolist())
            return Json(sessions.describe(session) | usage(tokens, read.cached), 201)

    async def show(request: Request) -> Response:
        return Json(sessions.describe(sessions.find(request.path_params["name"])))

    async def delete(request: Request) -> Response:
        name = request.path_params["name"]
        async with service.slot():
            await sessions.delete(name)
        return Json({"id": name, "object": "session", "deleted": True})

    async def append(request: Request) -> Response:
        async with service.slot():
            tokens = await new_tokens(service, await service.content(request))
            async with (
                sessions.use(request.path_params["name"]) as session,
                service.work(request) as work,
            ):
                read = await work.read(tokens=tokens, state=session.state)
                sessions.change(session, read.state, tokens.tolist())
                return Json(sessions.describe(session) | usage(tokens))

    async def complete(request: Request) -> Response:
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(service.slot())
            content = await service.content(request)
            asked = parse_completion(content, service.limits)
            if asked.n != 1 or asked.echo:
                raise UserError("a session has one continuation: leave out n and echo")
            tokens = await new_tokens(service, content)
            session = await held.enter_async_context(sessions.use(request.path_params["name"]))
            completion = Completion(
                asked, [tokens], service.vocabulary, service.names, session.state, session.context
            )

            async def finish(work):
                written = completion.written[0]
                state, new = completion.states[0], np.array(written, np.int32)
                read = await work.read(tokens=new, state=state)
                sessions.change(session, read.state, [*tokens.tolist(), *written])

            return await service.answer(request, completion, held, finish)

    async def fork(request: Request) -> Response:
        async with service.slot(), sessions.use(request.path_params["name"]) as session:
            other = await sessions.create(session.state, session.context)
            return Json(sessions.describe(other), 201)

    async def save(request: Request) -> Response:
        async with service.slot(), sessions.use(request.path_params["name"]) as session:
            await sessions.save(session)
            return Json(sessions.describe(session))

    async def restore(request: Request) -> Response:
        async with service.slot(), sessions.use(request.path_params["name"]) as session:
            await sessions.restore(session)
            return Json(sessions.describe(session))

    one = "/v1/sessions/{name}"
    return [
        Route("/v1/sessions", show_all),
        Route("/v1/sessions", create, methods=["POST"]),
        Route(one, show),
        Route(one, delete, methods=["DELETE"]),
        Route(f"{one}/append", append, methods=["POST"]),
        Route(f"{one}/completions", complete, methods=["POST"]),
        Route(f"{one}/fork", fork, methods=["POST"]),
        Route(f"{one}/save", save, methods=["POST"]),
        Route(f"{one}/restore", restore, methods=["POST"]),
    ]


async def new_tokens(service: Service, content: dict[str, Any]) -> Int[np.ndarray, " length"]:
    """The tokens of the only prompt of a request; none if it has no prompt."""
    prompts = await service.prompts(content.get("prompt", ""))
    if len(prompts) != 1:
        raise UserError(f"{len(prompts)} prompts: a session reads one at a time: send only one")
    return prompts[0]


def usage(tokens: Int[np.ndarray, " length"], cached: int = 0) -> dict[str, Any]:
    """How many tokens were read, and how many of them the cache saved."""
    details = {"cached_tokens": cached}
    return {"usage": {"prompt_tokens": len(tokens), "prompt_tokens_details": details}}
