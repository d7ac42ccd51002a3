"""The training step in plain JAX, as a yardstick: benchmarks/counted.py compares ours with it.

The same computation as a step of `block_recurrent` with T5 positions, the fixed gate in the skip
configuration, float32 and AdamW, on the same parameters. Only what the paper's equations need:
no module, no custom gradient, no kernel. It changes only if the model does.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from block_recurrent import KV, LayerState, ModelConfig
from block_recurrent.ops.positions import HIDDEN, t5_bucket

OPTIMIZER = optax.adamw(1e-3)


def norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * scale


def unit(x):
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-6)


def heads(x, linear, count: int):
    """[…, M, D] to [B, H, M, K] or, of blocks, [N, B, H, M, K]."""
    y = x @ linear["kernel"]
    return y.reshape(*y.shape[:-1], count, -1).swapaxes(-3, -2)


def scaled(queries, scale):
    return unit(queries) * jnp.abs(scale)[:, None, None]


def attend(queries, keys, values, bias=0.0):
    weights = jax.nn.softmax(queries @ keys.swapaxes(-1, -2) + bias)
    return weights @ values


def merged(*results):
    """Of each, the heads [H, M, K] to [M, H·K]; then side by side."""
    rows = (y.swapaxes(-3, -2) for y in results)
    return jnp.concatenate([y.reshape(*y.shape[:-2], -1) for y in rows], -1)


def band(params, window: int):
    """Bias and mask [H, W, 2W]: a query sees the W keys before it."""
    distance = np.arange(window)[:, None] + window - np.arange(2 * window)
    visible = (distance >= 1) & (distance <= window)
    bias = params["relative_bias"]["table"][:, t5_bucket(np.clip(distance, 1, window))]
    return jnp.where(visible, jnp.abs(params["scale"])[:, None, None] * bias, HIDDEN)


def cell(params, count: int, state, tokens: KV, start):
    """One step of the recurrence, and the keys and values of the state that enters."""
    state = jnp.where(start[:, None, None], params["initial"], state)
    h = norm(state, params["norm"]["scale"]) + params["state_ids"]
    own = KV(unit(heads(h, params["key"], count)), heads(h, params["value"], count))
    queries = scaled(heads(h, params["query"], count), params["scale"])
    token_queries = scaled(heads(h, params["token_query"], count), params["token_scale"])
    attended = merged(attend(queries, *own), attend(token_queries, *tokens))
    keep = jax.nn.sigmoid(params["output_gate"]["bias"])
    return keep * state + (1 - keep) * (attended @ params["output"]["kernel"]), own


def layer(params, config: ModelConfig, x, state: LayerState, starts):
    """A layer over all blocks [N, B, W, D]; its state carries keys and values, and the states."""
    count, attention = config.num_heads, params["attention"]
    h = norm(x, params["attention_norm"]["scale"])
    tokens = KV(unit(heads(h, attention["key"], count)), heads(h, attention["value"], count))

    def joined(own, before):
        before = jnp.concatenate([before[None], own[:-1]])
        before = jnp.where(starts.T[:, :, None, None, None], 0, before)
        return jnp.concatenate([before, own], 3)

    seen = jax.tree.map(joined, tokens, state.cache)
    queries = scaled(heads(h, attention["query"], count), attention["scale"])
    results, recurrent = [attend(queries, *seen, band(attention, config.window_length))], None
    if "cell" in params:

        def step(carry, block):
            return cell(params["cell"], count, carry, *block)

        recurrent, own = jax.lax.scan(step, state.recurrent, (seen, starts.T))
        queries = scaled(heads(h, attention["state_query"], count), attention["state_scale"])
        results.append(attend(queries, *own))
    x = x + merged(*results) @ attention["output"]["kernel"]
    h = norm(x, params["ffn_norm"]["scale"])
    x = x + jax.nn.relu(h @ params["ffn"]["hidden"]["kernel"]) @ params["ffn"]["output"]["kernel"]
    return x, LayerState(jax.tree.map(lambda own: own[-1], tokens), recurrent)


def loss(params, config: ModelConfig, state, batch):
    """Mean cross-entropy in nats per token, and the state after the segment."""
    rows, length = batch.inputs.shape
    x = params["embedding"][batch.inputs]
    x = x.reshape(rows, -1, config.window_length, x.shape[-1]).swapaxes(0, 1)
    after = []
    for index, before in enumerate(state):
        x, new = layer(params["layers"][index], config, x, before, batch.starts)
        after.append(new)
    features = norm(x.swapaxes(0, 1).reshape(rows, length, -1), params["final_norm"]["scale"])
    logits = features @ params["embedding"].T / np.sqrt(config.embedding_size)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return jnp.sum(nats * batch.weights) / batch.weights.sum(), tuple(after)


def make_step(config: ModelConfig):
    """The training step: parameters, moments, state and batch to those after it, and the loss."""

    def step(params, moments, state, batch):
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, config, state, batch)
        updates, moments = OPTIMIZER.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, state, value

    return step
