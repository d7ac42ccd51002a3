"""The loop that reads prompts and writes tokens for all requests at once."""

import collections
import dataclasses
import queue
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from block_recurrent.errors import first_line
from block_recurrent.generation.decoding import DecodingState, Writing
from block_recurrent.generation.generator import Generator
from block_recurrent.serving.logprobs import TokenScores
from block_recurrent.serving.prefix_cache import PrefixCache
from block_recurrent.serving.reading import READ_AT_ONCE, Reader, Reading
from block_recurrent.serving.rows import Rows

# Seconds. Python handles a signal when the main thread goes on. If it arrives just before that
# thread begins to wait, or in another thread, the wait is not interrupted.
SIGNALS = 1


class PromptRead(NamedTuple):
    """A prompt has been read.

    Attributes:
      state: the state of one row after it.
      cached: number of its tokens whose reading the cache saved.
      scores: of its tokens, if asked for.
    """

    state: DecodingState
    cached: int
    scores: TokenScores | None


class Written(NamedTuple):
    """The next tokens of a continuation.

    Attributes:
      choice: number of the continuation.
      tokens: the tokens, including one that ends the document.
      scores: their scores, if asked for.
      end: why these are the last tokens: the model ended the document, or `num_tokens` are
        written; None if more will follow.
    """

    choice: int
    tokens: Int[np.ndarray, " new"]
    scores: TokenScores | None
    end: Literal["stop", "length"] | None


class Returned(NamedTuple):
    """A `Call` has been made: what its function returned, or the error that it raised."""

    value: Any
    error: Exception | None = None


class Failed(NamedTuple):
    """The engine has stopped because of an error."""

    message: str


Event = PromptRead | Written | Returned | Failed


@dataclasses.dataclass(eq=False)
class Work:
    """Read a prompt, then write `choices` continuations of it.

    Attributes:
      tokens: the prompt.
      send: called in the engine's thread with each event: one `PromptRead`, then any number of
        `Written` per continuation.
      state: of one row, after which the prompt is read; None: the start of a document. It is not
        changed.
      choices: number of continuations; 0 only reads.
      num_tokens: maximum number of tokens of each.
      seed: from 0 to 2**32 - 1. Continuation i has the tokens that row i of a `Generator` would
        get with this seed.
      temperature, top_p: see `RowSampling`.
      scored: whether scores of the written tokens are wanted.
      prompt_scored: whether scores of the prompt's tokens are wanted.
      stopped: the continuations that are not to be written further. Any thread may add to it.
      cancelled: whether all of this work is abandoned. Any thread may set it.
    """

    tokens: Int[np.ndarray, " length"]
    send: Callable[[Event], None]
    state: DecodingState | None = None
    choices: int = 0
    num_tokens: int = 0
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    scored: bool = False
    prompt_scored: bool = False
    stopped: set[int] = dataclasses.field(default_factory=set)
    cancelled: bool = False

    def is_over(self, choice: int) -> bool:
        """Whether this continuation is not to be written further."""
        return self.cancelled or choice in self.stopped


@dataclasses.dataclass(eq=False)
class Call:
    """Another use of the model: a function that is called in turn with the reading of prompts.

    Attributes:
      function: computes for about as long as reading `READ_AT_ONCE` tokens takes. If it raises an
        exception, the engine goes on.
      send: called in the engine's thread with the one `Returned`.
      cancelled: as in `Work`.
    """

    function: Callable[[], Any]
    send: Callable[[Event], None]
    cancelled: bool = False

    def step(self) -> int:
        """Calls it, and returns the number of tokens that could have been read instead."""
        try:
            event = Returned(self.function())
        except Exception as error:
            event = Returned(None, error)
        self.send(event)
        return READ_AT_ONCE


class Continuation(NamedTuple):
    """A continuation that waits for a row, with the state after its prompt, or has one."""

    work: Work
    choice: int
    state: DecodingState | None


class Engine:
    """Continuous batching in a fixed number of rows::

        engine = Engine(generator, rows=8, end_token=1)
        threading.Thread(target=engine.run).start()
        engine.submit(Work(tokens, events.put, choices=1, num_tokens=100))

    Between two pieces of tokens, prompts are read for about `READ_AT_ONCE` tokens, in turns, and
    all free rows are taken. So no request waits until another is finished, except for a row.

    Args:
      generator: the model.
      rows: number of continuations that are written at the same time.
      end_token: the token that ends a document.
      cache_bytes: size of the cache of states after the beginnings of prompts.
    """

    def __init__(
        self, generator: Generator, *, rows: int, end_token: int, cache_bytes: int = 1 << 28
    ):
        self.rows = Rows(generator, rows, (end_token,))
        self.reader = Reader(generator, PrefixCache(cache_bytes))
        self._end_token = end_token
        self._new: queue.SimpleQueue[Work | Call | None] = queue.SimpleQueue()
        self._reading: collections.deque[tuple[Work, Reading] | tuple[Call, Call]] = (
            collections.deque()
        )
        self._waiting: collections.deque[Continuation] = collections.deque()
        self._writers: list[Continuation | None] = [None] * rows
        self._begun: tuple[DecodingState | None, Writing | None] = None, None
        self._stopping, self._failure = False, None

    def submit(self, work: Work | Call):
        """Add work, from any thread. Its events begin soon."""
        self._new.put(work)
        if self._failure:  # after `put`: `run` sends it to what was put before
            work.send(self._failure)

    def warm_up(self):
        """Compile what most requests need, before `run`."""
        tokens = np.zeros((self.reader.chunk + 1) * self.reader.block_length, np.int32)
        self.submit(Work(tokens, lambda event: None, choices=1, num_tokens=1))
        self.stop()
        self.run()

    def stop(self):
        """Let `run` return when all work that was submitted before is done."""
        self._new.put(None)

    def run(self):
        """Work until `stop` is called."""
        self._stopping = False
        try:
            while self._accept():
                self._read()
                self._fill_rows()
                self._write()
        except BaseException as error:
            self._failure = Failed(f"the server has stopped: {first_line(error)}")
            for work in self._all_work():
                work.send(self._failure)
            raise

    def _accept(self) -> bool:
        """Takes in new work, and waits for it if there is nothing to do; False: stop."""
        while True:
            self._drop()
            idle = not (self._reading or self._waiting or any(self._writers))
            if idle and self._stopping:
                return False
            try:
                work = self._new.get(block=idle, timeout=SIGNALS)
            except queue.Empty:
                return True
            if work is None:
                self._stopping = True
            elif isinstance(work, Call):
                self._reading.append((work, work))
            elif not work.cancelled:
                reading = Reading(self.reader, work.tokens, work.state, scored=work.prompt_scored)
                self._go_on(work, reading)

    def _drop(self):
        """Ends what is not wanted any more."""
        for row, writer in enumerate(self._writers):
            if writer and writer.work.is_over(writer.choice):
                self._release(row)
        for pending in (self._reading, self._waiting):
            kept = [each for each in pending if not each[0].cancelled]
            pending.clear()
            pending.extend(kept)

    def _read(self):
        """Reads a little of the prompts, in turns."""
        spent = 0
        while self._reading and spent < READ_AT_ONCE:
            work, reading = self._reading[0]  # where it is found if this step fails
            spent += reading.step()
            self._reading.popleft()
            if not isinstance(work, Call):
                self._go_on(work, reading)

    def _go_on(self, work: Work, reading: Reading):
        """Puts a prompt among those to read, or, if all of it was read, what follows it."""
        if not reading.finished:
            self._reading.append((work, reading))
            return
        state = reading.state
        work.send(PromptRead(state, reading.cached, reading.scores))
        self._waiting.extend(Continuation(work, choice, state) for choice in range(work.choices))

    def _fill_rows(self):
        for row, writer in enumerate(self._writers):
            while writer is None and self._waiting:
                work, choice, state = self._waiting.popleft()
                if work.is_over(choice):
                    continue
                writer = self._writers[row] = Continuation(work, choice, None)
                if self._begun[0] is not state:  # else it is another choice of the same prompt
                    self._begun = state, self.rows.begin(state)
                length = int(np.asarray(state.length)[0])
                self.rows.take(
                    row,
                    self._begun[1],
                    length,
                    seed=work.seed,
                    choice=choice,
                    end=length + work.num_tokens,
                    temperature=work.temperature,
                    top_p=work.top_p,
                    scored=work.scored,
                )

    def _write(self):
        if not any(self._writers):
            return
        tokens, scores, counts, ended = self.rows.write()
        for row, writer in enumerate(self._writers):
            if writer is None:
                continue
            new = tokens[row, : counts[row]]
            end = None
            if ended[row]:
                end = "stop" if new[-1] == self._end_token else "length"
                self._release(row)
            own = None
            if writer.work.scored:
                own = jax.tree.map(lambda leaf: leaf[row, : counts[row]], scores)  # noqa: B023
            writer.work.send(Written(writer.choice, new, own, end))

    def _release(self, row: int):
        self._writers[row] = None
        self.rows.release(row)

    def _all_work(self) -> set[Work | Call]:
        pending = [*self._reading, *self._waiting, *filter(None, self._writers)]
        found = {each[0] for each in pending}
        while not self._new.empty():
            found.add(self._new.get())
        return found - {None}
