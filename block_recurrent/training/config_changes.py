"""Options that change between two starts of a run: some are refused, the others are recorded."""

from typing import NamedTuple

from block_recurrent.config.changes import Change, differences
from block_recurrent.config.run_config import RunConfig
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, explain_path_errors
from block_recurrent.files.writing import atomic_write
from block_recurrent.parallel.processes import is_main_process, print_once
from block_recurrent.training.checkpoints import Checkpoints, shapes
from block_recurrent.training.optimizers import make_schedule
from block_recurrent.training.setup import abstract_state
from block_recurrent.training.workdir import has_config, read_config

RECORD = "changes.txt"
ANOTHER = "the training is another one from here on (--allow_changes)"


class Changes(NamedTuple):
    """What has changed since the last start of a run.

    Attributes:
      before: the configuration in its folder; for a new run, that of now.
      now: the configuration of now.
    """

    before: RunConfig
    now: RunConfig

    @property
    def options(self) -> list[Change]:
        """The options that have changed."""
        return differences(self.before, self.now)

    def names(self) -> set[str]:
        """The names of the options that have changed."""
        return {change.name for change in self.options}

    def lines(self, step: int) -> list[str]:
        """Describes the changes for the user, one per line.

        Args:
          step: the step from which the run continues.
        """
        lines = [
            f"{change.name} was {change.before!r}, is {change.after!r}: {change.effect or ANOTHER}"
            for change in self.options
        ]
        optimizer = self.now.optimizer
        before, after = (_rate(config, step) for config in self)
        if before != after:
            lines.append(f"the learning rate was {before:.4g}, is {after:.4g}")
        longer = self.now.train.num_steps > self.before.train.num_steps
        if longer and optimizer.ends and (end := _end(self.now)) < self.now.train.num_steps:
            lines.append(
                f"the schedule '{optimizer.schedule}' ends at step {end:,} "
                "(optimizer.decay_steps); from there on, the learning rate stays at "
                f"{_rate(self.now, end):.4g}"
            )
        return [f"step {step:,}: {line}" for line in lines]


def check_changes(workdir: AnyPath, config: RunConfig, *, allow: bool = False) -> Changes:
    """Compares a configuration with that in the folder of a run.

    Args:
      workdir: the folder of the run.
      config: the configuration of now.
      allow: whether options may change that change the training itself. Once there is a checkpoint,
        none may that changes the shape of what it contains.

    Raises:
      UserError: an option has changed that may not, or config.gin cannot be read.
    """
    if not has_config(workdir):
        return Changes(config, config)
    changes = Changes(read_config(workdir), config)
    refused = [change for change in changes.options if change.effect is None]
    if not refused:
        return changes
    with Checkpoints(workdir, read_only=True) as checkpoints:
        steps = checkpoints.steps
    reshaped = _reshaped(changes) if steps else None
    if reshaped or not allow:
        different = "; ".join(map(str, refused))
        keep = f"make the configurations equal{_hint(changes, max(steps, default=0))}"
        raise UserError(
            f"{workdir} contains a run with another configuration ({different}): {keep}, "
            + (
                f"or name another --workdir (its checkpoints do not fit: {reshaped})"
                if reshaped
                else "name another --workdir (train.initial_model can start it from an export of "
                "this run), or add --allow_changes to continue this run with the changes"
            )
        )
    return changes


def read_changes(workdir: AnyPath) -> list[str]:
    """The lines of changes.txt; none if nothing has changed since the start of the run."""
    path = workdir / RECORD
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def record_changes(workdir: AnyPath, changes: Changes, step: int | None):
    """Prints the changes, and appends them to changes.txt.

    Args:
      workdir: the folder of the run.
      changes: see `check_changes`.
      step: the step from which the run continues; None if it has no checkpoint. Then the changes
        are not recorded, since nothing is left that was computed without them.
    """
    if not is_main_process():
        return
    lines = changes.lines(step or 0)
    print_once("\n".join(lines))
    if step is None:
        return
    with explain_path_errors(workdir, "write to"):
        path = workdir / RECORD
        earlier = path.read_bytes() if path.exists() else b""
        with atomic_write(path) as file:
            file.write(earlier + "".join(f"{line}\n" for line in lines).encode())


def _reshaped(changes: Changes) -> str | None:
    """What does not fit in a checkpoint, such as "finite has the shape (8,), not (4,)", or None."""
    before, now = (shapes(abstract_state(config)) for config in changes)
    different = [name for name in before | now if before.get(name) != now.get(name)]
    if not different:
        return None
    name = different[0]
    if name not in now:
        what = f"{name} is not needed"
    elif name not in before:
        what = f"{name} is missing"
    else:
        what = f"{name} has the shape {before[name]}, not {now[name]}"
    return f"{what}, and {len(different) - 1} more" if different[1:] else what


def _hint(changes: Changes, step: int) -> str:
    """How to keep options that follow others unless they are set."""
    before, names, hints = changes.before, changes.names(), []
    fits = before.train.num_lanes % changes.now.train.batch_size == 0
    if "train.lanes" in names and fits:
        hints.append(f"train.lanes = {before.train.num_lanes} keeps the lanes")
    stretched = "optimizer.decay_steps" in names and "optimizer.schedule" not in names
    if stretched and before.optimizer.ends:
        steps = before.optimizer.decay_steps
        hints.append(
            f"optimizer.decay_steps = {steps}, which is train.num_steps unless it is set, keeps "
            f"the schedule: from step {_end(before):,} on, the learning rate stays at "
            f"{_rate(before, _end(before)):.4g}"
        )
        rates = [f"{_rate(config, step):.4g}" for config in changes]
        if rates[0] != rates[1]:
            hints.append(f"otherwise it changes at step {step:,} from {' to '.join(rates)}")
    return f" ({'; '.join(hints)})" if hints else ""


def _end(config: RunConfig) -> int:
    """The step at which a schedule that ends has ended, which is after its warm-up."""
    return max(config.optimizer.decay_steps, config.optimizer.warmup_steps + 1)


def _rate(config: RunConfig, step: int) -> float:
    """The learning rate of the update after `step` updates."""
    return float(make_schedule(config.optimizer)(step))
