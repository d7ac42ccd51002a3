import pytest

from corpus import tiny_run, write_corpus
from runs import SharingTrainer


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A run of 12 steps, with checkpoints after 4, 8 and 12."""
    return tiny_run(write_corpus(tmp_path_factory.mktemp("faults") / "texts"))


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory):
    """The folder of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("finished")
    assert SharingTrainer(config, workdir).run()
    return workdir
