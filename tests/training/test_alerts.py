"""Notes about padding and slow data: when, and how often."""

import dataclasses

from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.training.alerts import Alerts


def notes_of(alerts, **values):
    """The notes of a line of metrics, 0 unless set."""
    return list(alerts({"padding": 0.0, "waiting_for_data": 0.0, **values}))


def test_mostly_padding_is_told_once():
    alerts = Alerts(RunConfig())
    assert notes_of(alerts, padding=0.5) == []
    (note,) = notes_of(alerts, padding=0.957)
    assert note.startswith("96% of the positions in a batch are padding, because documents are")
    assert "window_length tokens: in a new run, set a smaller one, or join short doc" in note
    assert notes_of(alerts, padding=0.957) == []


def test_answers_are_few_on_purpose():
    alerts = Alerts(dataclasses.replace(RunConfig(), data=DataConfig(corpus="recall")))
    assert notes_of(alerts, padding=0.99) == []


def test_waiting_for_data_is_told_if_it_goes_on():
    alerts = Alerts(RunConfig())
    shares = [0.9, 0.9, 0.1, 0.3, 0.3, 0.21, 0.9, 0.9, 0.9]
    found = [notes_of(alerts, waiting_for_data=share) for share in shares]
    assert [len(notes) for notes in found] == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert found[5][0].startswith("steps wait for their batches 21% of the time: make a token st")
