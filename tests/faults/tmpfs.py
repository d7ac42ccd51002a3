"""A small file system in memory, where this process may mount one."""

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A new one at `folder`."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str):
    """With other options, as size=100m or ro."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@functools.cache
def may_mount() -> bool:
    """Whether this process may; it takes the rights of root."""
    return (
        subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True
        ).returncode
        == 0
    )
