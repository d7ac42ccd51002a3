"""Each fault, tried once; tests/fault_report.py tries more."""

import pytest

from faults import stops, storage
from faults.place import Place
from faults.tmpfs import may_mount

pytestmark = pytest.mark.slow
mounting = pytest.mark.skipif(not may_mount(), reason="may not mount a file system")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"), seed=1)


@pytest.mark.parametrize(
    "fault, times, processes",
    [
        pytest.param(stops.killed, 1, 1, marks=pytest.mark.long),
        (stops.killed_while_saving, 1, 1),
        pytest.param(stops.killed_while_saving, 1, 2, marks=pytest.mark.long),
        pytest.param(stops.killed_while_evaluating, 1, 1, marks=pytest.mark.long),
        pytest.param(stops.terminated, 1, 1, marks=pytest.mark.long),
        pytest.param(storage.second_training, 1, 1, marks=pytest.mark.long),
    ],
)
def test_processes(fault, times, processes, place):
    assert fault(place, times, processes).whole


@pytest.mark.long
def test_host_lost(place):
    assert stops.host_lost(place, 1).whole


@mounting
@pytest.mark.parametrize(
    "fault", [storage.disk_full, pytest.param(storage.read_only, marks=pytest.mark.long)]
)
def test_disk(fault, place):
    assert fault(place, 1).whole


@pytest.mark.long
def test_store_changed(tmp_path):
    assert storage.store_changed(tmp_path, 1).whole
