"""The norm of the layers."""

from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.ops.normalize import EPSILON, rms_normalize


class RMSNorm(nnx.RMSNorm):
    """x over its root mean square, times a learned scale: Flax's, with the gradient of `ops`."""

    def __init__(self, size: int, *, dtype: str = "float32", rngs: nnx.Rngs):
        super().__init__(size, epsilon=EPSILON, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        return rms_normalize(x, self.scale[...]).astype(self.dtype)
