"""Where arrays live: the device mesh and the rules that lay parameters over it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes.

    Attributes:
      data: ways to split the batch; -1 takes every device the other axes leave.
      fsdp: ways to split the batch *and* the parameters' embedding axis.
      tensor: ways to split heads and feed-forward units.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
