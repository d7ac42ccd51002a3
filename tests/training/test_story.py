"""The week of a run: what its user meets, one thing after another, in one folder."""

import dataclasses
import json
import re
import sys

import jax
import pytest

from block_recurrent import export, generate
from block_recurrent.config.train_options import OptimizerConfig
from block_recurrent.errors import UserError
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.workdir import read_config
from corpus import tiny_run, write_corpus
from runs import SharingTrainer, metrics, stop_in_step

COSINE = OptimizerConfig(schedule="cosine", learning_rate=0.02, warmup_steps=2, decay_steps=12)


def changed(config, **sections):
    """The configuration with some fields of its sections replaced."""
    parts = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **parts)


def out_of_memory(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")


def newest_step(workdir) -> int:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.find_latest_intact()


def evaluations(workdir, split) -> list[dict]:
    return [line for line in metrics(workdir) if line["split"] == split]


def command(monkeypatch, module, *arguments):
    """Runs a command."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()


@pytest.mark.slow
def test_a_week(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    config = tiny_run(write_corpus(tmp_path / "texts"), segment_length=16, log_every_steps=1)
    config = dataclasses.replace(config, optimizer=COSINE)
    config = changed(config, train={"keep_checkpoints": 1, "keep_best": 1, "average_decay": 0.5})

    # Monday. The step does not fit. The advice is taken, and the folder accepts it.
    with monkeypatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", out_of_memory)
        with pytest.raises(UserError, match="a step needs more memory than a device has") as error:
            SharingTrainer(config, run).run()
    advice = "set a larger train.microbatches or BlockRecurrentTransformer.remat = 'layer' or mesh."
    assert advice in str(error.value) and "\n" not in str(error.value)
    config = changed(config, model={"remat": "layer"})

    # Tuesday. The machine stops the run.
    assert not stop_in_step(5)(config, run).run()
    assert "remat was 'none', is 'layer': the training stays the same up" in capsys.readouterr().out
    assert newest_step(run) == 5

    # Wednesday. The corpus has moved. Other documents are refused, and these are accepted.
    (tmp_path / "texts").rename(tmp_path / "moved")
    write_corpus(tmp_path / "texts", seed=1)
    with pytest.raises(UserError, match="the corpus has changed since this run started"):
        SharingTrainer(config, run).run()
    config = changed(config, data={"path": str(tmp_path / "moved")})

    # On other devices, and with another rhythm.
    config = changed(config, mesh={"data": 1}, train={"eval_every_steps": 10})
    assert not stop_in_step(8)(config, run).run()
    printed = capsys.readouterr().out
    assert re.search("\nstep 5: data.path was .*: the documents are the same", printed)
    assert re.search("\nstep 5: mesh.data was -1, is 1: .* up to rounding", printed)

    # Thursday. Half the batch is enough, which is another training.
    config = changed(config, train={"batch_size": 2, "lanes": 4})
    with pytest.raises(UserError, match="train.batch_size: 4 in the workdir, 2 now.*--allow_chang"):
        SharingTrainer(config, run).run()
    assert SharingTrainer(config, run, allow_changes=True).run()
    assert newest_step(run) == 12

    # Friday. It is extended: the schedule has ended, or is stretched.
    config = changed(config, train={"num_steps": 14})
    assert SharingTrainer(config, run).run()
    config = changed(config, train={"num_steps": 16}, optimizer={"decay_steps": 16})
    with pytest.raises(UserError, match="optimizer.decay_steps: 12 in the workdir, 16 now"):
        SharingTrainer(config, run).run()
    assert SharingTrainer(config, run, allow_changes=True).run()

    # What is left tells the story, and continues from itself.
    lines = (run / "changes.txt").read_text().splitlines()
    assert [line[: line.index(" was")] for line in lines if " was " in line] == [
        "step 5: train.eval_every_steps",
        "step 5: data.path",
        "step 5: mesh.data",
        "step 8: train.batch_size",
        "step 12: train.num_steps",
        "step 14: train.num_steps",
        "step 14: optimizer.decay_steps",
        "step 14: the learning rate",
    ]
    rates = {line["step"]: line["learning_rate"] for line in metrics(run) if "padding" in line}
    assert list(rates) == list(range(1, 17))
    assert rates[12] == rates[14] == rates[16] == pytest.approx(0.002)
    assert rates[15] > 1.05 * rates[14], "the schedule was stretched from step 14 on"
    assert all(0 <= line["padding"] < 1 for line in metrics(run) if "padding" in line)
    assert json.loads((run / "heartbeat.json").read_text())["step"] == 16
    capsys.readouterr()
    assert SharingTrainer(read_config(run), run).run()
    assert "all 16 steps of this run are done" in capsys.readouterr().out

    # Saturday. The best model is still there. Its averaged weights become a file that writes.
    best = min(evaluations(run, "held_out_averaged"), key=lambda line: line["loss"])["step"]
    with Checkpoints(run, read_only=True) as checkpoints:
        assert {best, 16} <= set(checkpoints.steps)
    model = tmp_path / "model.safetensors"
    chosen = "--step=best", "--weights=averaged"
    command(monkeypatch, export, f"--workdir={run}", *chosen, f"--output={model}")
    assert f"step {best}" in capsys.readouterr().out
    texts = []
    for source in ((f"--workdir={run}", *chosen), (f"--model={model}",)):
        options = "--prompt=the ", "--num_tokens=12", "--temperature=1", "--seed=1"
        command(monkeypatch, generate, *source, *options)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""
