"""Compiled programs, kept for the next process in the user's cache folder.

JAX can store compiled programs in a folder, but it writes its files in place, and the keys of
programs for a CPU lack the instruction set. So each process gets a folder of its own, with copies
of the programs that earlier processes with the same JAX and processor have kept. What it compiles
is kept at its end, in files that are written atomically and carry their checksums.
"""

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import zstandard

from block_recurrent.files.checksums import sha256
from block_recurrent.files.writing import atomic_write

SWITCH = "BLOCK_RECURRENT_COMPILATION_CACHE"
MAX_BYTES = 100 * 2**20  # of kept programs; the oldest go first
MIN_SECONDS = 0.2  # of compilation, from which on a program is kept
PROCESSOR = {"vendor_id", "cpu family", "model", "flags"}  # of /proc/cpuinfo, on x86
PROCESSOR |= {"CPU implementer", "CPU part", "Features"}  # on Arm


@contextlib.contextmanager
def compilation_cache() -> Iterator[None]:
    """Inside the context, JAX finds the programs that earlier processes have compiled.

    If something fails, such as a full disk, programs are compiled again. Nothing is done if the
    environment variable BLOCK_RECURRENT_COMPILATION_CACHE is 0, if JAX's own cache is set up or
    switched off, or if the processor is unknown, as outside Linux. One of several processes keeps
    nothing either: the others might have kept other programs, and wait for it to compile with them.
    """
    kept = kept_programs()
    if kept is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            own = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compiled-")))
            stack.callback(_keep, own, kept)
            _copy_intact(kept, own)
            jax.config.update("jax_compilation_cache_dir", str(own))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
            # XLA's own caches would lie in a folder whose path differs between processes.
            jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        yield


def kept_programs() -> Path | None:
    """The folder of programs for this JAX and processor; None if programs are not kept."""
    set_up = jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache
    if set_up or os.environ.get(SWITCH) == "0" or jax.distributed.is_initialized():
        return None
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except (OSError, RuntimeError):  # no such file, or no home
        return None
    pairs = (line.partition(":") for line in first.splitlines())
    facts = [name + value for name, _, value in pairs if name.strip() in PROCESSOR]
    if not facts:
        return None
    processor = hashlib.sha256("\n".join([platform.machine(), *facts]).encode()).hexdigest()
    return Path(caches, "block_recurrent", "compiled", f"jax-{jax.__version__}-{processor[:16]}")


def _copy_intact(kept: Path, own: Path):
    """Copies the kept programs whose checksums are right, and deletes the others."""
    for path in kept.glob("*-cache.*"):
        name, _, checksum = path.name.rpartition(".")
        with contextlib.suppress(OSError):  # another process may delete the file
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == checksum:
                with atomic_write(own / name) as file:
                    file.write(content)
            elif not path.name.endswith(".tmp"):  # of `atomic_write`
                path.unlink()


def _keep(own: Path, kept: Path):
    """Keeps what this process has compiled, and deletes the oldest programs beyond the limit."""
    with contextlib.suppress(OSError):
        names = {path.name.rpartition(".")[0] for path in kept.iterdir()}
        for path in own.glob("*-cache"):
            if path.name not in names and _is_whole(path):
                with atomic_write(kept / f"{path.name}.{sha256(path)}") as file:
                    file.write(path.read_bytes())
        files = [(path.stat(), path) for path in kept.iterdir()]
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: file[0].st_mtime):
            if total > MAX_BYTES:
                path.unlink(missing_ok=True)
                total -= status.st_size


def _is_whole(path: Path) -> bool:
    """Whether JAX could write the whole file, which is compressed."""
    try:
        zstandard.decompress(path.read_bytes())
    except zstandard.ZstdError:
        return False
    return True
