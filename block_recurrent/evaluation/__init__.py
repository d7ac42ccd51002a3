"""How well a model predicts documents: scores, loss by position, the worth of the memory, reports.

May import `model`, `data`, `parallel` and `reporting`.
"""
