"""What may change in a run between two starts, and what that does to its training."""

import dataclasses
from typing import Any, NamedTuple

from block_recurrent.config.run_config import RunConfig, all_values

SAME = "the training stays the same, bit for bit"
ROUNDING = "the training stays the same up to rounding, but not bit for bit"
PARTS = f"{ROUNDING}; parts that are no multiples of 128 tokens have other dropout masks"
PLACE = "the documents are the same, and the training stays the same, bit for bit"
BAD_STEPS = "the training stays the same unless a step is not finite"

# The options that may change whenever a run is continued, and what that does. A name that ends in a
# dot stands for all options of its section that are not listed. All other options, and those with
# None, change the training itself.
MAY_CHANGE = {
    "train.num_steps": SAME,
    "train.log_every_steps": SAME,
    "train.eval_every_steps": SAME,
    "train.eval_tokens": SAME,
    "train.checkpoint_every_steps": SAME,
    "train.keep_checkpoints": SAME,
    "train.keep_best": SAME,
    "train.keep_every_steps": SAME,
    "train.best_metric": SAME,
    "train.patience": SAME,
    "train.profile_steps": SAME,
    "train.sample_tokens": SAME,
    "train.sample_prompt": SAME,
    "train.wandb_project": SAME,
    "train.on_nonfinite": BAD_STEPS,
    "train.max_nonfinite_steps": BAD_STEPS,
    "train.microbatches": ROUNDING,
    "BlockRecurrentTransformer.remat": ROUNDING,
    "BlockRecurrentTransformer.attention_kernel": ROUNDING,
    "mesh.": ROUNDING,
    "mesh.sequence": PARTS,
    "distributed.": SAME,
    "watch.": SAME,
    "data.": PLACE,  # a run always checks that the documents are those it started with
    "data.weights": None,
    "data.vocabulary": None,
}


class Change(NamedTuple):
    """An option with another value than in the folder of the run.

    Attributes:
      name: with its section, such as "train.seed".
      before: the value in the folder.
      after: the value now.
    """

    name: str
    before: Any
    after: Any

    @property
    def effect(self) -> str | None:
        """What a change that is always allowed does; None for all other changes."""
        section = self.name.partition(".")[0]
        return MAY_CHANGE.get(self.name, MAY_CHANGE.get(f"{section}."))

    def __str__(self):
        return f"{self.name}: {self.before!r} in the workdir, {self.after!r} now"


def differences(old: RunConfig, new: RunConfig) -> list[Change]:
    """The options whose values differ between the configuration in a folder and that of now."""
    old, new = (
        dataclasses.replace(config, train=dataclasses.replace(config.train, lanes=lanes))
        for config, lanes in ((old, old.train.num_lanes), (new, new.train.num_lanes))
    )
    after = all_values(new)
    return [
        Change(name, value, after[name])
        for name, value in all_values(old).items()
        if value != after[name]
    ]
