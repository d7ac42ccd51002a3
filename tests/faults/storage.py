"""Full and read-only disks, two trainings in one folder, a token store that changes."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.prepare.store_writer import ShardWriter, finish_store
from block_recurrent.data.vocabularies import ByteVocabulary
from corpus import tiny_run
from faults.place import STEPS, Place
from faults.tmpfs import remount, tmpfs
from faults.training import Training
from faults.tried import Tried

TOKENS = "train-00000.tokens"
REFUSED = 2  # exit status after one line that names the problem and the fix


def refused(training: Training, said: str, *, alone: bool = True) -> bool:
    """Waits for a training. True if it ends with a one-line error that contains `said`.

    Args:
      training: the training to wait for.
      said: a part of the line.
      alone: False allows libraries to print tracebacks of their threads before the line.
    """
    statuses, output = training.wait(), training.read_output()
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    clear = len(errors) == 1 and said in errors[0] and not (alone and "Traceback" in output)
    if statuses[0] == REFUSED and clear:
        return True
    print(f"{statuses} and not refused by {said!r}:\n{output}")
    return False


def disk_full(place: Place, times: int) -> Tried:
    """A disk too small for the checkpoints: a clear error. With more space, the run continues."""
    place.undisturbed()
    survived = 0
    for _ in range(times):
        kilobytes = place.random.randrange(50, 2000)
        with tmpfs(place.workdir(), f"{kilobytes}k") as disk:
            with place.train(disk / "run") as training:
                full = refused(training, "No space left on device", alone=False)
            remount(disk, "size=100m")
            survived += full and place.ends_well(disk / "run")
    return Tried("disk full", times, survived, "a small tmpfs, then a larger one")


def read_only(place: Place, times: int) -> Tried:
    """A read-only folder is refused. When it is made writable, the run continues."""
    place.undisturbed()
    survived = 0
    for _ in range(times):
        with tmpfs(place.workdir(), "100m") as disk:
            with place.train(disk / "run") as training:
                training.wait_until(training.is_saving)
                training.kill()
            remount(disk, "ro")
            with place.train(disk / "run") as training:
                clear = refused(training, "Read-only file system")
            remount(disk, "rw")
            survived += clear and place.ends_well(disk / "run")
    return Tried("read-only workdir", times, survived, "a tmpfs, mounted read-only")


def second_training(place: Place, times: int, processes: int) -> Tried:
    """Of two trainings in one folder, the second is refused, and the first is not disturbed."""
    place.undisturbed(processes)
    survived = 0
    for _ in range(times):
        workdir = place.workdir()
        with place.train(workdir, processes) as first:
            first.wait_until((workdir / "lock").exists)
            first.wait(place.random.uniform(0, 1))
            with place.train(workdir) as second:
                clear = refused(
                    second, f"is in use by another training (process {first.processes[0].pid}"
                )
            clear &= first.wait() == [0] * processes
        survived += clear and place.ends_well(workdir, processes)
    return Tried(f"second training, processes of the first: {processes}", times, survived)


def store_changed(folder: Path, times: int) -> Tried:
    """A store modified or replaced during a run is refused; restored, the run continues."""
    store, kept, other = (folder / name for name in ("store", "kept", "other"))
    for seed, path in enumerate((kept, other)):
        write_store(path, seed)
    put(kept, store)
    data = DataConfig(corpus="store", stores=(str(store),))
    place = Place(folder, dataclasses.replace(tiny_run(folder, **STEPS), data=data))
    place.undisturbed()
    survived = 0
    for _ in range(times):
        workdir = place.workdir()
        with place.train(workdir) as training:
            training.wait_until(training.is_saving)
            tokens = np.fromfile(store / TOKENS, "<u2")
            tokens[::-1].tofile(store / TOKENS)
            clear = refused(training, f"{TOKENS}: it was modified after this run opened it")
        put(other, store)
        with place.train(workdir) as training:
            clear &= refused(training, "the corpus has changed since this run started")
        put(kept, store)
        survived += clear and place.ends_well(workdir)
    return Tried("token store changed", times, survived)


def write_store(folder: Path, seed: int):
    """Writes ten documents of 1,000 random bytes, and one that is held out."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    vocabulary = ByteVocabulary()
    for split, documents in (("train", 10), ("held_out", 1)):
        with ShardWriter(folder, split, 0, vocabulary.size) as writer:
            for number in range(documents):
                raw = rng.integers(97, 123, 1000, np.uint8).tobytes()
                writer.add(np.append(vocabulary.encode(raw), vocabulary.end_id), raw)
                writer.end_document(str(number))
    described = {"kind": "bytes", "size": vocabulary.size, "eos": vocabulary.end_id}
    finish_store(folder, task="faults", vocabulary=described, shards={"train": 1, "held_out": 1})


def put(source: Path, target: Path):
    """Replaces the target by a copy of the source."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
