"""Training runs: step, optimizers, checkpoints, the loop, and what watches it.

May import every other room.
"""
