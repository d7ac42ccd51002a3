"""The result of trying a fault."""

from typing import NamedTuple


class Tried(NamedTuple):
    """How often a fault was tried, and how often the run ended as if nothing had happened.

    Attributes:
      fault: what was done.
      tried: how often.
      survived: how often nothing was lost.
      note: what else was seen.
    """

    fault: str
    tried: int
    survived: int
    note: str = ""

    @property
    def whole(self) -> bool:
        """Whether the fault was tried, and nothing lost."""
        return 0 < self.tried == self.survived
