"""Sessions on disk: one file each, and one more for what was saved."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from block_recurrent.errors import UserError
from block_recurrent.files.lock import LockedError, file_lock
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.saved_state import StateFormat, load_context

CURRENT, SAVED = ".safetensors", ".saved.safetensors"


class SessionFiles:
    """The folder of the sessions. Every file appears complete or not at all.

    A file is what `generate --save_state` writes.

    Args:
      folder: where they are.
      generator: the model.
    """

    def __init__(self, folder: Path, generator: Generator):
        self.folder, self._format = folder, StateFormat(generator)

    @contextlib.contextmanager
    def opened(self) -> Iterator["SessionFiles"]:
        """Keeps other servers out, and removes what a killed one had not finished.

        Raises:
          UserError: another server uses the folder, or it cannot be written.
        """
        with contextlib.ExitStack() as stack:
            self._open(stack)
            yield self

    def _open(self, stack: contextlib.ExitStack):
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(file_lock(self.folder / "lock"))
            for unfinished in self.folder.glob("*.tmp"):
                unfinished.unlink()
        except LockedError as error:
            raise UserError(
                f"--sessions={self.folder} is used by {error}: name another folder"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot use --sessions={self.folder} ({error.strerror}): name another folder"
            ) from error

    def found(self) -> dict[str, int | None]:
        """The sessions that have a file, with their numbers of tokens; None: it is damaged."""
        files = sorted(self.folder.glob(f"*{CURRENT}"))
        return {
            file.name.removesuffix(CURRENT): _num_tokens(file)
            for file in files
            if not file.name.endswith(SAVED)
        }

    def write(self, name: str, state: DecodingState, context: Sequence[int]):
        """Writes what the session is now.

        Raises:
          UserError: it cannot be written. The file is then the one before.
        """
        self._format.save(self.folder / (name + CURRENT), state, context)

    def read(self, name: str, suffix: str = CURRENT) -> tuple[DecodingState, list[int]]:
        """The state in a file, and the last tokens of its text.

        Raises:
          UserError: the file is damaged, or belongs to another model.
        """
        path = self.folder / (name + suffix)
        state = self._format.load(path)
        return state, load_context(path, state)

    def keep(self, name: str):
        """Makes the session's file, as it is now, also what `SAVED` names."""
        link = self.folder / f"{name}.{os.getpid()}.tmp"
        link.unlink(missing_ok=True)
        os.link(self.folder / (name + CURRENT), link)
        os.replace(link, self.folder / (name + SAVED))

    def is_kept(self, name: str) -> bool:
        """Whether the session was saved."""
        return (self.folder / (name + SAVED)).exists()

    def remove(self, name: str):
        """Removes all files of a session."""
        for suffix in (SAVED, CURRENT):
            (self.folder / (name + suffix)).unlink(missing_ok=True)


def _num_tokens(file: Path) -> int | None:
    try:
        with safe_open(file, "numpy") as opened:
            return int(opened.get_tensor("length")[0]) - 1
    except (OSError, SafetensorError, IndexError):
        return None
