"""Answers to `/v1/completions`, whole or as a stream."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.serving.completion_request import (
    CompletionRequest,
    pick_seed,
    without_start,
)
from block_recurrent.serving.completion_text import CompletionText, TextPiece
from block_recurrent.serving.engine import PromptRead
from block_recurrent.serving.submission import Submissions
from block_recurrent.serving.token_names import TokenNames


class Usage:
    """The number of tokens of a request, as the API reports it."""

    def __init__(self):
        self.prompt = self.cached = self.completion = 0

    def content(self) -> dict[str, Any]:
        """The JSON of it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class ChoicePiece(NamedTuple):
    """The next part of one of the request's continuations."""

    index: int
    piece: TextPiece


class Completion:
    """A request that is being answered.

    Args:
      request: what was asked for.
      prompts: the tokens of its prompts.
      vocabulary: the model's.
      names: of its tokens.
      state: after which the prompts are read; None: the start of a document.
      context: the last tokens before that state.

    Attributes:
      usage: complete after the last piece.
      written: the tokens of each continuation, up to its end.
      states: the states after the prompts.
    """

    def __init__(
        self,
        request: CompletionRequest,
        prompts: Sequence[Int[np.ndarray, " length"]],
        vocabulary: Vocabulary,
        names: TokenNames,
        state: DecodingState | None = None,
        context: Sequence[int] = (),
    ):
        self.request, self.state, self.usage = request, state, Usage()
        begins = state is None
        self.prompts = [without_start(each) if begins else each for each in prompts]
        self._context = context
        self._has_start = [len(a) != len(b) for a, b in zip(prompts, self.prompts, strict=True)]
        self._vocabulary, self._names = vocabulary, names
        self.states: list[DecodingState | None] = [None] * len(prompts)
        self.written: list[list[int]] = [[] for _ in range(len(prompts) * request.n)]
        self._texts = [self._new_text(prompt) for prompt in self.prompts for _ in range(request.n)]

    def _new_text(self, prompt) -> CompletionText:
        request = self.request
        before = () if request.echo else [*self._context, *prompt[-64:].tolist()]
        return CompletionText(
            self._vocabulary, self._names, before, request.stops, request.logprobs
        )

    async def pieces(self, work: Submissions) -> AsyncIterator[ChoicePiece]:
        """Does the work, and yields what becomes certain of any continuation."""
        request, n = self.request, self.request.n
        scored = request.logprobs is not None
        works = [
            work.submit(
                tokens=tokens,
                state=self.state,
                choices=n if request.max_tokens else 0,
                num_tokens=request.max_tokens,
                seed=pick_seed(request),
                temperature=request.temperature,
                top_p=request.top_p,
                scored=scored,
                prompt_scored=scored and request.echo,
            )
            for tokens in self.prompts
        ]
        self.usage.prompt = sum(map(len, self.prompts))
        open_texts = set(range(len(self._texts)))
        async for number, event in work.events():
            if isinstance(event, PromptRead):
                self.states[number] = event.state
                self.usage.cached += event.cached
                if request.echo:
                    async for choice in self._echo(number, event.scores):
                        yield choice
                if not request.max_tokens:
                    open_texts -= set(range(number * n, number * n + n))
            elif number * n + event.choice in open_texts:
                index = number * n + event.choice
                text, before = self._texts[index], self._texts[index].num_tokens
                piece = text.add(event.tokens, event.scores, event.end)
                self.written[index] += event.tokens[: text.kept - before].tolist()
                self.usage.completion += text.num_tokens - before
                if text.ended:
                    works[number].stopped.add(event.choice)
                    open_texts.remove(index)
                if piece.text or piece.end or (piece.logprobs and piece.logprobs["tokens"]):
                    yield ChoicePiece(index, piece)
            if not open_texts:
                return

    async def _echo(self, number, scores) -> AsyncIterator[ChoicePiece]:
        """The prompt as the first part of its continuations. Long ones are laid out elsewhere."""
        for index in range(number * self.request.n, (number + 1) * self.request.n):
            piece = await asyncio.to_thread(
                self._texts[index].echo,
                self.prompts[number],
                scores,
                has_start=self._has_start[number],
                end=None if self.request.max_tokens else "length",
            )
            yield ChoicePiece(index, piece)


def new_answer(model: str) -> dict[str, Any]:
    """What all parts of an answer have in common."""
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
    }


def choice_content(index: int, piece: TextPiece) -> dict[str, Any]:
    """A choice of an answer, or of a part of a stream."""
    return {
        "text": piece.text,
        "index": index,
        "logprobs": piece.logprobs,
        "finish_reason": piece.end,
    }


async def whole_choices(pieces: AsyncIterator[ChoicePiece], count: int) -> list[dict[str, Any]]:
    """The choices of an answer that is sent at once."""
    parts: list[list[TextPiece]] = [[] for _ in range(count)]
    async for index, piece in pieces:
        parts[index].append(piece)
    return [choice_content(index, join(own)) for index, own in enumerate(parts)]


def join(parts: Sequence[TextPiece]) -> TextPiece:
    """Several parts of a continuation as one."""
    logprobs = None
    if parts[0].logprobs is not None:
        names = parts[0].logprobs
        logprobs = {name: [x for part in parts for x in part.logprobs[name]] for name in names}
    return TextPiece("".join(part.text for part in parts), logprobs, parts[-1].end)
