"""What can happen to a file."""

from pathlib import Path


def empty(path: Path):
    """What a power cut leaves of a file that was not written through."""
    path.write_bytes(b"")


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def delete(path: Path):
    path.unlink()


DAMAGES = (empty, truncate, flip, delete)
