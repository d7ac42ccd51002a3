"""Damaged checkpoints."""

import shutil

import jax
import numpy as np
import pytest
from flax import nnx

from block_recurrent import UserError
from block_recurrent.files import checksums
from block_recurrent.files.checksums import CHECKSUMS, write_checksums
from block_recurrent.training.checkpoints import Checkpoints
from block_recurrent.training.workdir import load_run
from faults.damage import DAMAGES, NOTES, delete, empty, flip
from runs import SharingTrainer, assert_same_end, final_arrays


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of the undisturbed run."""
    return shutil.copytree(finished, tmp_path / "copy")


def newest(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.find_latest_intact()


def test_every_file_damaged_in_every_way(finished, config, tmp_path, capsys):
    """Each file of checkpoint 12 in turn: checkpoint 8 is used, and one line says why.

    Each damage is noticed. Of the four of a file, one is tried with a whole folder of checkpoints.
    """
    folder = finished / "checkpoints" / "12"
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) > 20
    shutil.copytree(finished / "checkpoints" / "8", tmp_path / "checkpoints" / "8")
    copy = shutil.copytree(folder, tmp_path / "checkpoints" / "12")
    for index, name in enumerate(files):
        # A flipped bit of the checksums may be in the name of another file.
        named = copy if name.name == CHECKSUMS else copy / name
        for damage in DAMAGES:
            damage(copy / name)
            found = checksums.find_damage(copy)
            assert (found is None) == (str(name) in NOTES), (name, damage)
            assert found is None or str(named) in found
            if damage is DAMAGES[index % len(DAMAGES)]:
                step = newest(tmp_path)
                lines = capsys.readouterr().err.splitlines()
                said = [
                    line for line in lines if not line.startswith(("WARNING", "ERROR"))
                ]  # Orbax
                line = f"checkpoint 12 is skipped: {found}"
                assert (step, said) == ((8, [line]) if found else (12, []))
            shutil.copy(folder / name, copy / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [delete, *(pytest.param(each, marks=pytest.mark.long) for each in DAMAGES[:-1])]
)
def test_notes_of_orbax_do_not_matter(damage, copy, finished, config):
    for note in NOTES:
        damage(copy / "checkpoints" / "12" / note)
    assert_same_end(copy, finished, config)


@pytest.mark.slow
def test_damaged_numbers_are_never_loaded(copy, finished, config):
    """A flipped bit of the largest file: Orbax would load it as another number."""
    flip(largest(copy / "checkpoints" / "12" / "training"))
    older = shutil.copytree(finished, copy.parent / "older")
    shutil.rmtree(older / "checkpoints" / "12")
    for a, b in zip(final_arrays(copy, config), final_arrays(older, config), strict=True):
        np.testing.assert_array_equal(a, b)
    flip(largest(copy / "checkpoints" / "12" / "params"))
    assert load_run(copy).step == 8


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize(
    "damage",
    [flip, *(pytest.param(each, marks=pytest.mark.long) for each in DAMAGES if each is not flip)],
)
def test_a_model_needs_no_optimizer(damage, copy, finished, capsys):
    """`evaluate` and the like use a checkpoint that training would skip."""
    for path in (copy / "checkpoints" / "12" / "training").rglob("*"):
        if path.is_file():
            damage(path)
    model, expected = (nnx.to_pure_dict(nnx.state(load_run(w).model)) for w in (copy, finished))
    jax.tree.map(np.testing.assert_array_equal, model, expected)
    assert load_run(copy).step == 12 and "is skipped" not in capsys.readouterr().err
    assert newest(copy) == 8


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b"3", b'{"a": 3}', b'{"a": {"bytes": 3}}', b'{"a": {"sha256": "0"}}']
    + [b'{"a": {"bytes": "3", "sha256": "0"}}', b'{"a": {"bytes": 3, "sha256": 0}}'],
)
def test_a_file_without_checksums(content, tmp_path):
    (tmp_path / CHECKSUMS).write_bytes(content)
    assert checksums.find_damage(tmp_path) == f"{tmp_path / CHECKSUMS} contains no checksums"


def test_a_mistake_in_the_code_is_not_damage(tmp_path, monkeypatch):
    def mistaken(*_):
        raise TypeError("a mistake")

    (tmp_path / "file").write_text("text")
    write_checksums(tmp_path)
    assert checksums.find_damage(tmp_path) is None
    monkeypatch.setattr(checksums, "find_difference", mistaken)
    with pytest.raises(TypeError, match="a mistake"):
        checksums.find_damage(tmp_path)


def test_a_run_continues_from_the_newest_whole_checkpoint(copy, finished, config, capfd):
    """And ends as if nothing had happened."""
    flip(copy / "checkpoints" / "12" / "params" / "manifest.ocdbt")
    assert SharingTrainer(config, copy).run()
    assert "continuing from step 8" in capfd.readouterr().out
    assert_same_end(copy, finished, config)
    names = sorted(path.name for path in (copy / "checkpoints").iterdir())
    assert names == ["12", "12.damaged", "4", "8"]
    flip(copy / "checkpoints" / "12" / "params" / "manifest.ocdbt")
    assert SharingTrainer(config, copy).run(), "though there is a 12.damaged already"
    assert_same_end(copy, finished, config)


def test_a_checkpoint_that_replaces_a_damaged_one_is_intact(config, tmp_path):
    """A run that rolls back after that returns to it."""
    trainer = SharingTrainer(config, tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        state, position = trainer.start(checkpoints)
        later = state._replace(step=state.step + 1)
        checkpoints.save(state, position)
        checkpoints.save(later, position)
    flip(tmp_path / "checkpoints" / "1" / "params" / "manifest.ocdbt")
    with Checkpoints(tmp_path) as checkpoints:
        assert trainer.start(checkpoints)[0].step == 0
        checkpoints.save(later, position)
        checkpoints.wait()
        assert checkpoints.find_latest_intact() == 1
        assert trainer.start(checkpoints)[0].step == 1


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(copy, config, capsys):
    for folder in (copy / "checkpoints").iterdir():
        empty(folder / "checksums.json")
    before = (copy / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match="every checkpoint in .* is damaged: restore one"):
        SharingTrainer(config, copy).run()
    with pytest.raises(UserError, match="every checkpoint in .* is damaged: restore one"):
        load_run(copy)
    assert (copy / "metrics.jsonl").read_text() == before
    assert capsys.readouterr().err.count("contains no checksums") == 6


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(copy, finished, config):
    (copy / "checkpoints" / "4").rename(copy / "checkpoints" / "4.orbax-checkpoint-tmp")
    for step in (8, 12):
        shutil.rmtree(copy / "checkpoints" / str(step))
    delete(copy / "checkpoints" / "4.orbax-checkpoint-tmp" / "checksums.json")
    assert SharingTrainer(config, copy).run()
    assert_same_end(copy, finished, config)
