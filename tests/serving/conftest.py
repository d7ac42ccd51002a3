"""The model that the tests of the server share."""

import pytest

from block_recurrent import Generator
from tiny import variant_model


@pytest.fixture(scope="module")
def generator() -> Generator:
    return Generator(variant_model("fixed_skip"))
