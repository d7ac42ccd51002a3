"""Files that are there as a whole or not at all."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import BinaryIO

from block_recurrent.run_folder import AnyPath, in_bucket


@contextlib.contextmanager
def whole_file(path: AnyPath) -> Iterator[BinaryIO]:
    """A file to write to. Once the context ends well it stands at `path`; else nothing is left."""
    if in_bucket(path):
        file = io.BytesIO()
        yield file
        path.write_bytes(file.getvalue())  # objects are never there in part
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
