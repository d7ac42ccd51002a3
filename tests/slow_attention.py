"""A slow reference for sliding-window attention."""

import numpy as np


def slow_attention(attention, x):
    """`SlidingWindowAttention` in loops, for one document in one row, with W zeros before it."""
    kernels = {n: np.asarray(getattr(attention, n).kernel[...]) for n in ("query", "key", "value")}
    scale, table = np.abs(attention.scale[...]), np.asarray(attention.relative_bias.table[...])
    window, heads = attention.window_length, attention.num_heads
    q, k, v = ((x @ kernels[n]).reshape(len(x), heads, -1) for n in ("query", "key", "value"))
    q, k = (a / np.sqrt(np.square(a).sum(-1, keepdims=True) + 1e-6) for a in (q, k))
    y = np.zeros_like(q)
    for i in range(len(x)):
        for h in range(heads):
            logits, values = [], []
            for distance in range(1, window + 1):
                j = i - distance
                content = q[i, h] @ k[j, h] if j >= 0 else 0.0
                bucket = (
                    distance if distance < 16 else 16 + int(np.log(distance / 16) / np.log(8) * 16)
                )
                logits.append(scale[h] * (content + table[h, min(bucket, 31)]))
                values.append(v[j, h] if j >= 0 else np.zeros_like(v[0, h]))
            weights = np.exp(logits) / np.exp(logits).sum()
            y[i, h] = weights @ np.array(values)
    return y.reshape(len(x), -1) @ np.asarray(attention.output.kernel[...])
