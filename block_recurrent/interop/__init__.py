"""Import and export of weights: safetensors files, and checkpoints of the authors' code (meliad).

May import `model` and `files`.
"""

from block_recurrent.interop.meliad import model_from_meliad

__all__ = ["model_from_meliad"]
