"""Fixtures of the tests that need TensorFlow."""

import pytest

from block_recurrent.data.prepare.quiet_tensorflow import import_tensorflow
from books import write_books


@pytest.fixture(scope="session", autouse=True)
def tensorflow():
    """Imports TensorFlow only in the process that runs these tests, not when they are collected."""
    import_tensorflow()


@pytest.fixture(scope="session")
def pg19(tmp_path_factory):
    return str(write_books(tmp_path_factory.mktemp("tfds")))
