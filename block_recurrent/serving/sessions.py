"""Sessions: documents that are read once, and continued many times."""

import asyncio
import collections
import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from block_recurrent.data.vocabularies import Vocabulary
from block_recurrent.errors import UserError
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.text_stream import TextStream
from block_recurrent.serving.api_errors import ApiError
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.session_files import SAVED, SessionFiles

BEFORE = 64  # new tokens on which the text after them can depend


@dataclasses.dataclass(eq=False)
class Session:
    """A document that can be continued.

    Attributes:
      name: its identifier.
      state: of one row, after all its tokens; None while the session is only on disk.
      num_tokens: number of its tokens; None if its file is damaged.
      context: its last tokens; see `TextStream`.
      is_written: whether its file has this state.
      lock: held while something is done with the session.
      is_deleted: whether those who wait for the lock come too late.
    """

    name: str
    state: DecodingState | None = None
    num_tokens: int | None = 0
    context: Sequence[int] = ()
    is_written: bool = False
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    is_deleted: bool = False


class Sessions:
    """All sessions of a server. The least recently used are on disk only.

    All methods run in the event loop; what takes time runs in other threads.

    Args:
      files: their folder.
      vocabulary: the model's.
      limits: how many there can be.
      size: bytes of a state.
    """

    def __init__(self, files: SessionFiles, vocabulary: Vocabulary, limits: Limits, size: int):
        self._files, self._vocabulary, self._limits = files, vocabulary, limits
        self.size = size
        self._on_device: dict[str, Session] = {}
        self._all = collections.OrderedDict(
            (name, Session(name, num_tokens=count, is_written=True))
            for name, count in files.found().items()
        )

    def __len__(self) -> int:
        return len(self._all)

    def describe_all(self) -> list[dict[str, Any]]:
        """All sessions, the one used last at the end."""
        return [self.describe(session) for session in self._all.values()]

    def describe(self, session: Session) -> dict[str, Any]:
        """A session in the API's form."""
        return {
            "id": session.name,
            "object": "session",
            "tokens": session.num_tokens,
            "bytes": self.size,
            "place": "disk" if session.state is None else "device",
            "saved": self._files.is_kept(session.name),
        }

    async def create(self, state: DecodingState, context: Sequence[int]) -> Session:
        """A new session in this state.

        Raises:
          ApiError: there are too many, or the disk is full.
        """
        await self._make_room()
        if len(self._all) >= self._limits.max_sessions:
            raise ApiError(
                429,
                f"there are {len(self._all):,} sessions, the limit (--max_sessions): delete some",
                code="too_many_sessions",
            )
        session = Session(f"session-{secrets.token_hex(12)}", context=self._context(context))
        self._set_state(session, state)
        self._all[session.name] = self._on_device[session.name] = session
        return session

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Session]:
        """The session, with its state, for nobody else inside the context.

        Raises:
          ApiError: there is none, or its file is damaged.
        """
        session = self.find(name)
        async with session.lock:
            self.find(name)
            if session.state is None:
                await self._make_room()
                session.state, session.context = await _in_thread(self._files.read, name)
            self._all.move_to_end(name)
            self._on_device.pop(name, None)
            self._on_device[name] = session  # at the end: the one used last
            yield session

    def change(self, session: Session, state: DecodingState, tokens: Sequence[int]):
        """Appends tokens, after which the state is `state`. Call it inside `use`."""
        session.context = self._context([*session.context, *tokens[-BEFORE:]])
        self._set_state(session, state)

    async def save(self, session: Session):
        """Keeps the session as it is now, so that it survives a crash, and for `restore`.

        Raises:
          ApiError: the disk is full.
        """
        await self._write(session)
        await _in_thread(self._files.keep, session.name)

    async def restore(self, session: Session):
        """Makes the session what it was when it was saved.

        Raises:
          ApiError: it was not saved.
        """
        if not self._files.is_kept(session.name):
            raise ApiError(
                409,
                f"{session.name} has not been saved: POST /v1/sessions/{session.name}/save first",
                code="not_saved",
            )
        state, session.context = await _in_thread(self._files.read, session.name, SAVED)
        self._set_state(session, state)

    async def delete(self, name: str):
        """Removes a session and its files.

        Raises:
          ApiError: there is none.
        """
        session = self.find(name)
        async with session.lock:
            self.find(name)
            await _in_thread(self._files.remove, name)
            session.is_deleted = True
            del self._all[name]
            self._on_device.pop(name, None)

    async def write_all(self):
        """Writes all sessions that are not on disk, after the last request.

        Raises:
          ApiError: some could not be written; all others are.
        """
        failures = []
        for session in self._all.values():
            try:
                await self._write(session)
            except ApiError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _context(self, tokens: Sequence[int]) -> list[int]:
        return TextStream(self._vocabulary, tokens[-BEFORE:]).context

    def _set_state(self, session: Session, state: DecodingState):
        session.state, session.is_written = state, False
        session.num_tokens = int(state.length[0]) - 1

    def find(self, name: str) -> Session:
        session = self._all.get(name)
        if session is None or session.is_deleted:
            raise ApiError(
                404,
                f"there is no session {name[:60]!r}: GET /v1/sessions lists them",
                code="not_found",
            )
        return session

    async def _write(self, session: Session):
        if not session.is_written:
            state, context = session.state, session.context
            await _in_thread(self._files.write, session.name, state, context)
            session.is_written = True

    async def _make_room(self):
        """Lets idle sessions leave the device, so that one more can be there."""
        idle = [each for each in self._on_device.values() if not each.lock.locked()]
        for session in idle[: max(0, len(self._on_device) + 1 - self._limits.device_sessions)]:
            if session.lock.locked() or session.is_deleted:  # since the one before was written
                continue
            async with session.lock:
                await self._write(session)
                session.state = None
                self._on_device.pop(session.name, None)


async def _in_thread(function, *arguments) -> Any:
    """What takes time on the disk. An error of the disk is not the client's."""
    try:
        return await asyncio.to_thread(function, *arguments)
    except (UserError, OSError) as error:
        raise ApiError(507, str(error), code="storage") from error
