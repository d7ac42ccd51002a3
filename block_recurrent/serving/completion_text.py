"""From the tokens of one continuation to its text and log-probabilities, piece by piece."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.generation.text_stream import TextStream
from block_recurrent.serving.logprobs import TokenScores
from block_recurrent.serving.token_names import TokenNames

BEFORE = 64  # tokens of a prompt on which the text after it can depend


class TextPiece(NamedTuple):
    """The next part of a continuation.

    Attributes:
      text: what is certain now: it cannot become part of a stop text.
      logprobs: of the tokens that begin in it, as the API lays them out; None if not asked for.
      end: why this is the last part: 'stop' or 'length'; None if more will follow.
    """

    text: str
    logprobs: dict[str, list] | None
    end: str | None


class ScoredToken(NamedTuple):
    """A token in the API's log-probabilities; `offset` is the number of characters before it."""

    name: str
    logprob: float | None
    top: dict[str, float] | None
    offset: int


class CompletionText:
    """The text of one continuation.

    Args:
      vocabulary: the model's.
      names: of the vocabulary's tokens.
      before: the tokens before the text.
      stops: texts that end the continuation.
      logprobs: how many of the most likely tokens to name; None: no log-probabilities.

    Attributes:
      num_tokens: number of the continuation's tokens, up to the end of a stop text.
      kept: the same without a token that ends the document.
      ended: whether the last piece has been made.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        names: TokenNames,
        before: Sequence[int] | np.ndarray = (),
        stops: tuple[str, ...] = (),
        logprobs: int | None = None,
    ):
        self._stream = TextStream(vocabulary, before[-BEFORE:])
        self._names, self._stops, self._num_top = names, stops, logprobs
        self._text, self._sent, self._stop_from = "", 0, 0
        self._tokens: list[ScoredToken] = []  # not sent yet
        self.num_tokens = self.kept = 0
        self.ended = False

    def echo(
        self,
        prompt: Int[np.ndarray, " length"],
        scores: TokenScores | None,
        *,
        has_start: bool,
        end: str | None,
    ) -> TextPiece:
        """The prompt as the first part of the text.

        Args:
          prompt: its tokens.
          scores: their scores, if log-probabilities are asked for.
          has_start: whether token 0 stands before them.
          end: why there are no other parts; None if there are.
        """
        if has_start and self._num_top is not None:
            self._tokens.append(ScoredToken(self._names[0], None, None, 0))
        stops, self._stops = self._stops, ()  # they only end what is written
        self._add(prompt, scores)
        self._stops, self._stop_from, self.num_tokens = stops, len(self._text), 0
        if end:
            self._text += self._stream.end()
        return self._piece(len(self._text), end)

    def add(
        self, tokens: Int[np.ndarray, " new"], scores: TokenScores | None, end: str | None
    ) -> TextPiece:
        """The part that these tokens make certain. A stop text ends the continuation early."""
        self._add(tokens, scores)
        cut, self.kept = self._find_stop(), self.num_tokens
        if cut is not None:
            self._text = self._text[:cut]
            self._tokens = [each for each in self._tokens if each.offset < cut]
            end = "stop"
        elif end:
            self.kept -= end == "stop"  # the token that ends the document
            self._text += self._stream.end()
        self.ended = end is not None
        held = 0 if end else self._possible_stop()
        return self._piece(len(self._text) - held, end)

    def _add(self, tokens, scores):
        """Adds tokens one by one where their places matter, and up to a stop text."""
        step = 1 if self._stops or self._num_top is not None else max(1, len(tokens))
        for first in range(0, len(tokens), step):
            offset = len(self._text)
            self._text += self._stream.add(tokens[first : first + step])
            self.num_tokens += len(tokens[first : first + step])
            if self._num_top is not None:
                self._tokens.append(self._scored(int(tokens[first]), scores, first, offset))
            if self._find_stop() is not None:
                return

    def _scored(self, token: int, scores: TokenScores, index: int, offset: int) -> ScoredToken:
        name, logprob = self._names[token], float(scores.logprob[index])
        ids = scores.top_ids[index, : self._num_top].tolist()
        values = scores.top_logprobs[index, : self._num_top].tolist()
        top = {self._names[each]: value for each, value in zip(ids, values, strict=True)}
        return ScoredToken(name, logprob, top | {name: logprob}, offset)

    def _find_stop(self) -> int | None:
        """Where the first stop text begins."""
        if not self._stops:
            return None
        longest = max(map(len, self._stops))
        first = max(self._stop_from, self._sent - longest)
        places = [self._text.find(stop, first) for stop in self._stops]
        return min((place for place in places if place >= 0), default=None)

    def _possible_stop(self) -> int:
        """The length of the text's end that may be the beginning of a stop text."""
        beginnings = itertools.chain.from_iterable(
            (stop[:length] for length in range(1, len(stop))) for stop in self._stops
        )
        own = self._text[self._stop_from :]
        return max((len(each) for each in beginnings if own.endswith(each)), default=0)

    def _piece(self, certain: int, end: str | None) -> TextPiece:
        text, self._sent = self._text[self._sent : certain], max(self._sent, certain)
        if self._num_top is None:
            return TextPiece(text, None, end)
        number = sum(1 for each in self._tokens if end or each.offset < certain)
        sent, self._tokens = self._tokens[:number], self._tokens[number:]
        return TextPiece(text, lay_out(sent), end)


def lay_out(tokens: Sequence[ScoredToken]) -> dict[str, list[Any]]:
    """The API's four lists."""
    return {
        "tokens": [each.name for each in tokens],
        "token_logprobs": [each.logprob for each in tokens],
        "top_logprobs": [each.top for each in tokens],
        "text_offset": [each.offset for each in tokens],
    }
