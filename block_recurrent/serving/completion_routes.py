"""`/v1/models`, `/v1/completions`, and the tokens of texts."""

import asyncio
import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from block_recurrent.serving.api_errors import ApiError, Json
from block_recurrent.serving.completion_request import check_answer_size, parse_completion
from block_recurrent.serving.completions import Completion
from block_recurrent.serving.service import Service


def completion_routes(service: Service) -> list[Route]:
    """The routes of one model."""
    about = {"id": service.name, "object": "model", "created": 0, "owned_by": "block_recurrent"}

    async def models(_: Request) -> Response:
        return Json({"object": "list", "data": [about]})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != service.name:
            raise ApiError(
                404, f"there is no model {name!r}: this server has {service.name}", code="not_found"
            )
        return Json(about)

    async def completions(request: Request) -> Response:
        async with contextlib.AsyncExitStack() as held:
            await held.enter_async_context(service.slot())
            asked = parse_completion(await service.content(request), service.limits)
            prompts = await service.prompts(asked.prompt, asked.n)
            check_answer_size(asked, prompts, service.limits)
            completion = Completion(asked, prompts, service.vocabulary, service.names)
            return await service.answer(request, completion, held)

    async def tokenize(request: Request) -> Response:
        async with service.slot():
            (tokens,) = await service.prompts((await service.content(request)).get("prompt", ""))
            return Json({"tokens": tokens.tolist(), "count": len(tokens)})

    async def detokenize(request: Request) -> Response:
        async with service.slot():
            tokens = (await service.content(request)).get("tokens", [])
            text = await asyncio.to_thread(decode, tokens)
            return Json({"prompt": text})

    def decode(tokens: list) -> str:
        found = service.vocabulary.decode(service.generator.as_tokens(tokens))
        return found.decode("utf-8", "replace")

    async def tokenizer_info(_: Request) -> Response:
        return Json(
            {
                "tokenizer_class": service.vocabulary.name,
                "vocab_size": service.generator.config.vocab_size,
                "bos_token": None,  # token 0 begins every document; it has no text
                "eos_token": None,
                "eos_token_id": service.vocabulary.end_id,
            }
        )

    async def health(_: Request) -> Response:
        return Json(
            {
                "status": "ok",
                "requests": service.slots.taken,
                "sessions": len(service.sessions),
                "session_bytes": service.sessions.size,
                "prefix_cache_bytes": service.engine.reader.cache.num_bytes,
            }
        )

    return [
        Route("/v1/models", models),
        Route("/v1/models/{name}", model),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokenizer_info),
        Route("/health", health),
    ]
