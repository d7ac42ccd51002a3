"""Saving: Orbax and stop signals, and full disks."""

import pytest

from block_recurrent import UserError
from block_recurrent.training.checkpoints import Checkpoints
from runs import SharingTrainer


def test_orbax_does_not_ask_about_stop_signals(config, tmp_path, monkeypatch):
    """Its step numbers would be mistaken for those of `StopSignal`."""

    def reached_preemption_sync_point(step):
        raise AssertionError(f"asked about step {step}")

    name = "jax.experimental.multihost_utils.reached_preemption_sync_point"
    monkeypatch.setattr(name, reached_preemption_sync_point)
    trainer = SharingTrainer(config, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(*trainer.start(checkpoints))
        checkpoints.wait()
        assert checkpoints.find_latest_intact() == 0


@pytest.mark.parametrize(
    "where",
    [
        "training.checkpoints.write_checksums",
        pytest.param("reporting.metrics_log.MetricsLog.write", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_is_one_line(where, config, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"block_recurrent.{where}", full)
        with pytest.raises(UserError, match=f"cannot write to {tmp_path} .No space left on device"):
            SharingTrainer(config, tmp_path).run()
    assert SharingTrainer(config, tmp_path).run()
