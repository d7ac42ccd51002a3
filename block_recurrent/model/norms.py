"""The norm of the layers."""

from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.ops.normalize import EPSILON, normalize


class RMSNorm(nnx.RMSNorm):
    """x over its root mean square, times a learned scale (Zhang & Sennrich 2019).

    Flax's, but for the gradient.
    """

    def __init__(self, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        super().__init__(size, epsilon=EPSILON, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return normalize(x, self.scale[...], x.shape[-1]).astype(self.dtype)
