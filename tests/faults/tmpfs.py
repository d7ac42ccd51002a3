"""A small file system in memory, if this process may mount one."""

import contextlib
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mounts a new file system at `folder` inside the context."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str):
    """Mounts it again with other options, such as size=100m or ro."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount file systems, as only root can."""
    return (
        subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"], capture_output=True
        ).returncode
        == 0
    )
