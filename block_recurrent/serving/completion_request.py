"""What a client may ask of `/v1/completions`, checked."""

import dataclasses
import secrets
from typing import Annotated, Any

import numpy as np
import orjson
from jaxtyping import Int

from block_recurrent.data.vocabularies import PADDING, Vocabulary, encode_prompt
from block_recurrent.errors import UserError
from block_recurrent.fields import Range, checked
from block_recurrent.generation.generator import Generator
from block_recurrent.serving.api_errors import ApiError
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.logprobs import NUM_TOP

MAX_CHOICES = 128  # of one request
MAX_STOPS, MAX_STOP_LENGTH = 16, 256  # characters; the search for them takes time
# Fields of the API that this server does not have, with the value that changes nothing.
NEUTRAL = {
    "best_of": 1,
    "frequency_penalty": 0,
    "logit_bias": {},
    "presence_penalty": 0,
    "suffix": "",
}
IGNORED = ("user",)


@checked
@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """The fields of a request, as the API names them.

    Attributes:
      model: ignored: a server has one model.
      prompt: text, tokens, or a list of either.
      max_tokens: maximum number of tokens of each continuation.
      temperature: divides the logits; 0 always takes the most likely token.
      top_p: sample from the smallest set of most likely tokens with at least this probability.
      n: continuations of each prompt.
      seed: the same seed gives the same tokens; None: another one each time.
      stop: texts that end a continuation, and are not part of it.
      logprobs: also return the log-probability of each token, and of this many most likely ones.
      echo: return the prompt before each continuation.
      stream: send the continuations piece by piece.
      stream_options: ``{"include_usage": true}`` also sends the number of tokens.
    """

    model: str = ""
    prompt: object = ""
    max_tokens: Annotated[int, Range(0)] = 16
    temperature: Annotated[float, Range(0, most=2)] = 1.0
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0
    n: Annotated[int, Range(1, most=MAX_CHOICES)] = 1
    seed: Annotated[int, Range(-(2**63), below=2**64)] | None = None
    stop: str | tuple[str, ...] = ()
    logprobs: Annotated[int, Range(0, most=NUM_TOP)] | None = None
    echo: bool = False
    stream: bool = False
    stream_options: object = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end a continuation."""
        return tuple(filter(None, (self.stop,) if isinstance(self.stop, str) else self.stop))

    @property
    def sends_usage(self) -> bool:
        """Whether a stream also sends the number of tokens."""
        return isinstance(self.stream_options, dict) and bool(
            self.stream_options.get("include_usage")
        )


def parse_json(body: bytes) -> dict[str, Any]:
    """The JSON object of a request; an empty one if there is no body.

    Raises:
      ApiError: the body is not one.
    """
    try:
        content = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the request is not JSON: {error}", code="invalid_json") from error
    if not isinstance(content, dict):
        raise ApiError(400, "the request must be a JSON object, {…}", code="invalid_json")
    return content


def parse_completion(content: dict[str, Any], limits: Limits) -> CompletionRequest:
    """The request in a JSON object.

    Raises:
      UserError: a field is unknown or invalid, or beyond the limits.
    """
    fields = {
        name: value
        for name, value in content.items()
        if value is not None and name not in IGNORED and NEUTRAL.get(name, ...) != value
    }
    for name in NEUTRAL.keys() & fields.keys():
        raise UserError(f"{name} = {fields[name]!r}: not supported by this server: leave it out")
    request = CompletionRequest(**fields)
    if request.max_tokens > limits.max_tokens:
        raise UserError(
            f"max_tokens = {request.max_tokens}: this server writes at most {limits.max_tokens:,} "
            "(--max_tokens)"
        )
    if len(request.stops) > MAX_STOPS:
        raise UserError(f"stop: at most {MAX_STOPS} texts")
    if any(len(each) > MAX_STOP_LENGTH for each in request.stops):
        raise UserError(f"stop: at most {MAX_STOP_LENGTH} characters in a text")
    if request.max_tokens == 0 and not request.echo:
        raise UserError("max_tokens = 0: without echo, there would be no text: give 1 or more")
    return request


def check_answer_size(
    request: CompletionRequest, prompts: list[Int[np.ndarray, " length"]], limits: Limits
):
    """Refuses answers whose echoes and log-probabilities would take too much memory.

    Raises:
      UserError: they would have more tokens than a request's prompts can have.
    """
    echoed = sum(map(len, prompts)) if request.echo else 0
    scored = len(prompts) * request.max_tokens if request.logprobs is not None else 0
    size = request.n * (echoed + scored)
    if size > limits.max_prompt_tokens:
        raise UserError(
            f"echo and logprobs: the answer would have up to {size:,} tokens: this server "
            f"returns at most {limits.max_prompt_tokens:,} (--max_prompt_tokens); send fewer or "
            "shorter prompts, or reduce n or max_tokens"
        )


def pick_seed(request: CompletionRequest) -> int:
    """The seed for the engine: 32 bits of the request's, or a new one."""
    return secrets.randbits(32) if request.seed is None else request.seed % 2**32


def read_prompts(
    prompt: object, vocabulary: Vocabulary, generator: Generator, limits: Limits, choices: int = 1
) -> list[Int[np.ndarray, " length"]]:
    """The tokens of the prompts.

    Args:
      prompt: text, tokens, or a list of either. Tokens may begin with 0, the start of a document,
        which every prompt has in any case.
      vocabulary: the model's.
      generator: checks tokens.
      limits: of the server.
      choices: continuations of each prompt.

    Raises:
      UserError: it is something else, it is too long, or the model lacks some of it.
    """
    prompts = [prompt] if _is_prompt(prompt) else prompt
    if not isinstance(prompts, list) or not all(map(_is_prompt, prompts)):
        raise UserError("prompt: give text, a list of tokens, or a list of either")
    if len(prompts) * choices > MAX_CHOICES:
        raise UserError(
            f"{len(prompts)} prompts with n = {choices}: a request can have at most {MAX_CHOICES} "
            "continuations"
        )
    found = [
        encode_prompt(each.encode(), vocabulary, "the prompt").astype(np.int32)
        if isinstance(each, str)
        else generator.as_tokens(each)
        for each in prompts
    ]
    total = sum(map(len, found))
    if total > limits.max_prompt_tokens:
        raise UserError(
            f"the prompt has {total:,} tokens: this server reads at most "
            f"{limits.max_prompt_tokens:,} (--max_prompt_tokens); append the rest to a session"
        )
    return found


def without_start(tokens: Int[np.ndarray, " length"]) -> Int[np.ndarray, " rest"]:
    """The tokens after the 0 at the start of a document, if they begin with it."""
    return tokens[1:] if len(tokens) and tokens[0] == PADDING else tokens


def _is_prompt(value: object) -> bool:
    """Whether it is text, or a list of integers."""
    is_tokens = isinstance(value, list) and all(type(each) is int for each in value)
    return isinstance(value, str) or is_tokens
