"""Training runs: the loop, and what it calls.

Start with `loop`. `trainer` joins the parts of a run around it, `setup` builds them, and
`train_step` is one step. `reporter`, `held_out`, `checkpoints`, `nonfinite`, `preemption` and
`watching` are what happens between the steps.

May import every other room.
"""
