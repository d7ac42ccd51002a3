"""The file of a vocabulary: on disk, or in memory when it comes out of another file."""

import functools
import hashlib

from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import AnyPath, in_bucket


class VocabularyFile:
    """A file that is read when it is first needed; training needs only its digest.

    Args:
      source: path or content.

    Raises:
      UserError: the file cannot be read; raised at the first access.
    """

    def __init__(self, source: AnyPath | bytes):
        self._source = source

    def __str__(self) -> str:
        return "the vocabulary" if isinstance(self._source, bytes) else str(self._source)

    @functools.cached_property
    def content(self) -> bytes:
        if isinstance(self._source, bytes):
            return self._source
        # The client of a bucket raises its own exceptions, which are not OSErrors.
        errors = Exception if in_bucket(self._source) else OSError
        try:
            return self._source.read_bytes()
        except errors as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise UserError(
                f"cannot read the vocabulary {self._source} ({reason}): restore it, or name "
                "another file"
            ) from error

    @functools.cached_property
    def digest(self) -> str:
        """The first 64 bits of the SHA-256 of the content, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()[:16]
