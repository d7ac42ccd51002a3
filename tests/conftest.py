"""Setup of all tests: checks the shapes in all signatures, and caches compiled functions."""

import gc
import os
import signal
import sys
import tempfile
from importlib.metadata import version
from unittest import mock

import jaxtyping
import pytest

# Those with arrays, and the fields of their configurations, which convert what they are given.
WITH_SHAPES = (
    "analysis",
    "comparison",
    "data",
    "evaluation",
    "fields",
    "generation",
    "interop",
    "model",
    "ops",
    "parallel",
    "reporting",
    "serving",
    "training",
)
jaxtyping.install_import_hook(
    [f"block_recurrent.{name}" for name in WITH_SHAPES], "beartype.beartype"
)

# The quick tests in these folders run whole trainings, commands and servers. Checking the shapes in
# every call would take a quarter of their time; the slow tests check them everywhere.
WITHOUT_CHECKS = (
    "commands",
    "comparison",
    "config",
    "evaluation",
    "faults",
    "reporting",
    "serving",
    "training",
)

# Processes that a script starts in the background ignore Ctrl-C. Without this line, processes that
# tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests and the processes they start compile the same few tiny models many times. The workers of
# pytest-xdist inherit these variables, so all share one folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

# Tests mostly compile. Without LLVM's optimizations, and with XLA's older emitters, compiling takes
# a quarter of the time. `.ci/run` also runs the numerical tests with all optimizations.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if version("jaxlib").startswith("0.10."):  # later versions exit at the first of these flags
        flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"


# Tracing makes many objects that live long; looking for garbage among them takes 5% of the time.
gc.set_threshold(50_000, 20, 100)


def pytest_sessionstart():
    """Flax asks every traced value for its sharding, also for those that have none.

    JAX then searches the whole program for the origin of the value, for an error message that Flax
    never shows. Without the search, building a model takes a third to four fifths of the time.
    """
    from jax._src.interpreters import partial_eval

    partial_eval.DynamicJaxprTracer._origin_msg = lambda tracer: ""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Runs the tests of a file in one process: they share fixtures and compiled functions.

    One process runs all tests that need TensorFlow, so that only one imports it. Each recorded
    model of test_golden.py is compiled for itself, by any process.
    """
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            if "tests/data/prepare/" in nodeid:
                return "prepare"
            if "test_golden" in nodeid:
                return nodeid.partition("[")[2]
            return super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def shape_checks(request):
    """Checks the shapes in all calls, except in the quick tests of some folders."""
    quick = "not slow" in request.config.getoption("markexpr")
    unchecked = quick and request.path.parent.name in WITHOUT_CHECKS
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module", autouse=True)
def environment_as_before():
    """What a file's tests set, or the programs that they import, is not left to those after it."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture
def run_command(monkeypatch, capfd):
    """Runs a command in this process: (exit status, standard output, standard error)."""
    from block_recurrent.console.cli import run_main

    def run(main, *arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            run_main(main)
        return exit.value.code, *capfd.readouterr()

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A small folder of text."""
    from corpus import write_corpus  # once the shapes of what it imports are checked

    return write_corpus(tmp_path_factory.mktemp("corpus"))
