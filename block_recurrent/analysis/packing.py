"""Arrays in a page: quantised, compressed, and as one text that its script unpacks."""

import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped


class Packed(NamedTuple):
    """An array of small unsigned integers q. Its values are scale · q^power.

    Attributes:
      array: uint8, uint16 or uint32.
      scale: the value of q = 1.
      power: 1, or 2 to resolve small values better.
    """

    array: Shaped[np.ndarray, "..."]
    scale: float = 1.0
    power: int = 1


def quantise(values: Shaped[np.ndarray, "..."], dtype: type = np.uint8, power: int = 1) -> Packed:
    """Pack values that are at least 0. The largest one gets the largest integer.

    The error is at most half a step: with power 1, a step is the largest value divided by 255 or
    65,535. NaN becomes 0.
    """
    values = np.nan_to_num(np.asarray(values, np.float64), nan=0, posinf=0)
    levels = np.iinfo(dtype).max
    most = float(values.max(initial=0)) or 1.0
    array = np.rint((values / most) ** (1 / power) * levels).astype(dtype)
    return Packed(array, most / levels**power, power)


def integers(values: Shaped[np.ndarray, "..."]) -> Packed:
    """Pack integers that are at least 0, in the smallest type that holds them."""
    values = np.asarray(values)
    return Packed(values.astype(np.min_scalar_type(int(values.max(initial=0)))))


def pack(arrays: Mapping[str, Packed], text: str, about: Mapping[str, Any]) -> str:
    """Arrays, a text and what is told about them, in base64 of gzip.

    It begins with the length of a header in JSON (4 bytes, little-endian), the header, and the text
    in UTF-8. The arrays follow in order, little-endian.
    """
    content = text.encode("utf-8", "surrogatepass")
    described = [
        {
            "name": name,
            "type": f"{each.array.dtype}",
            "shape": each.array.shape,
            "scale": each.scale,
            "power": each.power,
        }
        for name, each in arrays.items()
    ]
    header = {"about": about, "text": len(content), "arrays": described}
    head = json.dumps(header, allow_nan=False).encode()
    parts = [len(head).to_bytes(4, "little"), head, content]
    parts += [
        each.array.astype(each.array.dtype.newbyteorder("<")).tobytes() for each in arrays.values()
    ]
    return base64.b64encode(gzip.compress(b"".join(parts), 6, mtime=0)).decode()
