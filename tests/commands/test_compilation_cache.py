"""Compiled programs are kept for the next process, and never half a program."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import zstandard

from block_recurrent.files import compilation_cache as module
from block_recurrent.files.compilation_cache import compilation_cache, kept_programs

pytestmark = pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs Linux")
OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)
PROGRAM = zstandard.compress(os.urandom(1000))


@pytest.fixture(autouse=True)
def no_other_cache(monkeypatch, tmp_path):
    """No cache of JAX's own, and a cache folder of the test's own."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv(module.SWITCH, raising=False)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(**compiled: bytes) -> dict[str, bytes]:
    """What a process finds; it then compiles programs, which JAX writes to its folder."""
    with compilation_cache():
        own = Path(jax.config.jax_compilation_cache_dir)
        found = {path.name: path.read_bytes() for path in own.iterdir()}
        for name, content in compiled.items():
            (own / f"{name}-cache").write_bytes(content)
    assert not own.exists()
    jax.config.update("jax_compilation_cache_dir", None)  # as in a new process
    return found


def test_the_next_process_finds_what_was_compiled():
    assert run(step=PROGRAM) == {}
    assert run() == run() == {"step-cache": PROGRAM}


@pytest.mark.parametrize("damage", [PROGRAM[:500], b"", PROGRAM[:-1] + b"?"])
def test_a_damaged_program_is_not_found_but_compiled_again(damage):
    run(step=PROGRAM)
    [file] = kept_programs().iterdir()
    file.write_bytes(damage)
    assert run(step=PROGRAM) == {}
    assert run() == {"step-cache": PROGRAM}


def test_a_program_that_jax_wrote_in_part_is_not_kept():
    run(step=PROGRAM[:500], init=PROGRAM)
    assert run() == {"init-cache": PROGRAM}


def test_a_full_disk_keeps_nothing(monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        run(step=PROGRAM)
    assert list(kept_programs().iterdir()) == []


def test_the_oldest_programs_are_deleted_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 2.5 * len(PROGRAM))
    for age, name in enumerate(("first", "second", "third")):
        run(**{name: PROGRAM})
        [file] = kept_programs().glob(f"{name}-cache.*")
        os.utime(file, (age, age))
    run()
    assert run().keys() == {"second-cache", "third-cache"}


def test_without_a_folder_to_write_nothing_is_kept(tmp_path):
    (tmp_path / "caches").write_text("a file")
    with compilation_cache():
        assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("choice", ["switched off", "a cache of JAX's own", "no cache of JAX's"])
def test_by_choice_nothing_is_kept(choice, monkeypatch, tmp_path):
    if choice == "switched off":
        monkeypatch.setenv(module.SWITCH, "0")
    elif choice == "a cache of JAX's own":
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    else:
        monkeypatch.setattr(type(jax.config), "jax_enable_compilation_cache", False)
    before = jax.config.jax_compilation_cache_dir
    with compilation_cache():
        assert jax.config.jax_compilation_cache_dir == before
    assert not (tmp_path / "caches").exists()


COMPILE = """
import json, jax
from block_recurrent.files import compilation_cache as module

module.MIN_SECONDS = 0
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("cache_hits")))
with module.compilation_cache():
    value = jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8)))
print(json.dumps([float(value), sum(hits)]))
"""


@pytest.mark.slow
def test_processes_at_the_same_time_and_later_ones_share_programs(tmp_path):
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])

    def start():
        command = [sys.executable, "-c", COMPILE]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def result(process):
        output, _ = process.communicate()
        assert process.returncode == 0
        return json.loads(output)

    both = [start(), start()]
    assert [result(process)[0] for process in both] == [512, 512]
    value, hits = result(start())
    assert value == 512 and hits > 0
