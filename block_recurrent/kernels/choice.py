"""Which implementation of the attention runs, and with which tiles."""

import math
from typing import Literal

from block_recurrent.errors import UserError
