"""The result of trying a fault."""

from typing import NamedTuple


class Tried(NamedTuple):
    """How often a fault was tried, and how often the run's result was not affected.

    Attributes:
      fault: description of the fault.
      tried: number of tries.
      survived: number of tries in which nothing was lost.
      note: other observations.
    """

    fault: str
    tried: int
    survived: int
    note: str = ""

    @property
    def whole(self) -> bool:
        """Whether the fault was tried, and nothing lost."""
        return 0 < self.tried == self.survived
