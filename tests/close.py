"""Comparison of numbers that may be rounded differently, on other processors or in other orders."""

import jax
import jax.numpy as jnp
import numpy as np

SAFETY = 2


def assert_close(actual, expected, *, terms, dtype=jnp.float32, scale=0.0, name=""):
    """Assert that arrays, or trees of arrays, differ by rounding only.

    The rounding errors of a sum of n terms grow like a random walk of n steps, each as large as
    the last bit of the largest values. So each array may differ by 2 ε √n max|expected|.

    Args:
        terms: The number of terms in the sums behind a value. Add up sums that follow each other.
        dtype: The type the values were computed in, which sets ε. Sums in bfloat16 accumulate in
            float32 and are rounded once: count the sums there, not their terms.
        scale: The size of the values before they cancel, where it exceeds max|expected|.
        name: Shown with the values that differ.
    """
    unit = SAFETY * float(jnp.finfo(dtype).eps) * terms**0.5

    def compare(actual, expected):
        actual, expected = np.asarray(actual, float), np.asarray(expected, float)
        tolerance = unit * max(scale, np.abs(expected).max(initial=0))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)

    jax.tree.map(compare, actual, expected)
