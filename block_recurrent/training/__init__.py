"""Training runs.

Start with `loop`. `setup` builds the parts of a run, `trainer` runs the loop with them, and
`train_step` is one step. What happens between steps is in `reporter`, `held_out`, `checkpoints`,
`retention`, `nonfinite`, `preemption` and `watching`.

May import every other room.
"""
