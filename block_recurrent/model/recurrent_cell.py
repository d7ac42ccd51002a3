"""The recurrent cell of the paper: a transformer layer over the state vectors."""

import functools
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from block_recurrent.fields import Range, check_arguments, check_value
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.feed_forward import FeedForward, RMSNorm, linear
from block_recurrent.model.gates import GATES
from block_recurrent.model.inputs import (
    check_batch_size,
    check_keys_values,
    check_rngs,
    check_shape,
    check_starts,
)
from block_recurrent.ops.attention import choose_kernel, unmasked_attention
from block_recurrent.ops.blocks import merge_heads, to_heads
from block_recurrent.ops.normalize import l2_normalize, scaled_l2_normalize
from block_recurrent.ops.segment_parts import of_last_part, part_after_part
from block_recurrent.types import KV


class RecurrentCell(nnx.Module):
    """One step of the recurrence: from the state that enters a block to the one that leaves it.

    The states attend to themselves and to the block's tokens, and gates update them with the
    results (the horizontal direction, section 3.2 and Figure 2 of the paper)::

        a = [ attention(states → states) ‖ attention(states → tokens) ]
        dual     x = gate(x, a W)        x = gate(x, FFN(norm(x)))
        skip     x = gate(x, a W)
        single   x = gate(x, tanh(FFN(a)))

    A cell can be the body of a `jax.lax.scan`: it maps carry and input to carry and output. The
    output is what the tokens of the block read: keys and values of the state that *enters* it::

        cell = RecurrentCell(256, num_states=64, num_heads=4, head_size=64, mlp_dim=1024,
                             rngs=nnx.Rngs(0))
        state = cell.initial_state(batch_size)
        state, read = jax.lax.scan(cell, state, tokens)   # tokens: KV [N, B, H, V, K]

    Shapes: state ``[B, S, D]``, tokens ``[B, H, V, K]`` with V = 2W keys.

    Raises:
      UserError: an argument has a wrong type or value; when called, a shape does not fit.
    """

    @check_arguments(ModelConfig, kernel="attention_kernel")
    def __init__(
        self,
        embedding_size: int,
        num_states: int,
        num_heads: int,
        head_size: int,
        mlp_dim: int,
        *,
        gate: str = "fixed",
        configuration: str = "skip",
        dtype: str = "float32",
        param_dtype: str = "float32",
        kernel: str = "xla",
        rngs: nnx.Rngs,
    ):
        check_rngs(rngs)
        check_value("num_states", num_states, Annotated[int, Range(1)])

        types = {"dtype": dtype, "param_dtype": param_dtype}

        def new_gate(input_size):
            return GATES[gate](input_size, embedding_size, **types, rngs=rngs)

        def normal(stddev):
            init = nnx.initializers.normal(stddev)
            return nnx.Param(init(rngs.params(), (num_states, embedding_size), param_dtype))

        dense = functools.partial(linear, **types, rngs=rngs)
        width = num_heads * head_size
        self.state_shape, self.num_heads = (num_states, embedding_size), num_heads
        self.head_size, self.configuration, self.dtype = head_size, configuration, dtype
        self.kernel = choose_kernel(kernel, {"num_states": num_states}, head_size, dtype)
        self.initial = normal(0.1)
        self.state_ids = normal(1.0)
        self.norm = RMSNorm(embedding_size, **types, rngs=rngs)
        self.key = dense(embedding_size, width)
        self.value = dense(embedding_size, width)
        self.query = dense(embedding_size, width)
        self.token_query = dense(embedding_size, width)
        self.scale = nnx.Param(jnp.ones(num_heads, param_dtype))
        self.token_scale = nnx.Param(jnp.ones(num_heads, param_dtype))
        if configuration in ("dual", "skip"):
            self.output = dense(2 * width, embedding_size)
            self.output_gate = new_gate(2 * width)
        if configuration == "dual":
            self.ffn_norm = RMSNorm(embedding_size, **types, rngs=rngs)
        if configuration in ("dual", "single"):
            inputs = embedding_size if configuration == "dual" else 2 * width
            self.ffn = FeedForward(inputs, mlp_dim, embedding_size, **types, rngs=rngs)
            self.ffn_gate = new_gate(mlp_dim)

    def initial_state(self, batch_size: int) -> Float[Array, "B S D"]:
        """The learned initial state, which every document starts with."""
        return jnp.tile(self.initial[...].astype(jnp.float32), (check_batch_size(batch_size), 1, 1))

    def restart(
        self, state: Float[Array, "B S D"], starts: Bool[Array, " B"] | None
    ) -> Float[Array, "B S D"]:
        """Replaces the state by the initial state in rows where a document starts."""
        if starts is None:
            return state
        return jnp.where(starts[:, None, None], self.initial[...], state)

    def __call__(
        self, state: Float[Array, "B S D"], tokens: KV
    ) -> tuple[Float[Array, "B S D"], KV]:
        """The state that leaves the block, and keys and values of the state that enters it."""
        check_shape("state", state, "B", *self.state_shape)
        sizes = self.num_heads, "V", self.head_size
        check_keys_values("tokens", tokens, state.shape[0], *sizes)
        states, attended = self.attend(self.with_ids(state), tokens)
        return self.update(state, attended), states

    def attend(self, h: Float[Array, "B S D"], tokens: KV) -> tuple[KV, Float[Array, "B S HK2"]]:
        """Keys and values of the states, and the attention results `a` of the class docstring."""
        states = self.keys_values(h)
        if self.kernel == "pallas":  # it normalizes the queries
            queries = (rows.swapaxes(1, 2) for rows in self.project_queries(h))
            scales = map(jnp.abs, self.scales)
        else:
            queries, scales = self.queries(h), (None, None)
        results = (
            unmasked_attention(each, *read, scale=scale)
            for each, read, scale in zip(queries, (states, tokens), scales, strict=True)
        )
        return states, merge_heads(*(result.swapaxes(1, 2) for result in results))

    def read(self, state: Float[Array, "B S D"]) -> KV:
        """Keys and values ``[B, H, S, K]`` of a state, which tokens attend to."""
        return self.keys_values(self.with_ids(state))

    def queries(self, h: Float[Array, "B S D"]) -> tuple[Float[Array, "B H S K"], ...]:
        """Queries to the states and queries to the tokens, from normalized states with IDs."""
        rows = map(scaled_l2_normalize, self.project_queries(h), self.scales)
        return tuple(row.swapaxes(1, 2) for row in rows)

    def project_queries(self, h: Float[Array, "B S D"]) -> tuple[Float[Array, "B S H K"], ...]:
        """The queries before normalization."""
        return tuple(to_heads(w(h), self.num_heads) for w in (self.query, self.token_query))

    @property
    def scales(self) -> tuple[Float[Array, " H"], ...]:
        """The lengths of the queries, up to their sign."""
        return self.scale[...], self.token_scale[...]

    def keys_values(self, h: Float[Array, "B S D"]) -> KV:
        """Keys and values ``[B, H, S, K]``, from normalized states with IDs."""
        keys, values = (to_heads(w(h), self.num_heads) for w in (self.key, self.value))
        return KV(l2_normalize(keys).swapaxes(1, 2), values.swapaxes(1, 2))

    def with_ids(self, state: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """norm(state) + IDs. The IDs are learned embeddings that distinguish the state vectors."""
        return self.norm(state) + self.state_ids[...].astype(self.dtype)

    def update(
        self, x: Float[Array, "B S D"], attended: Float[Array, "B S HK2"]
    ) -> Float[Array, "B S D"]:
        """Applies the gates of the configuration. The state stays in float32."""
        if self.configuration == "single":
            hidden = self.ffn.activations(attended)
            return self.ffn_gate(x, jnp.tanh(self.ffn.output(hidden)), hidden)
        x = self.output_gate(x, self.output(attended), attended)
        if self.configuration == "dual":
            hidden = self.ffn.activations(self.ffn_norm(x))
            x = self.ffn_gate(x, self.ffn.output(hidden), hidden)
        return x


def scan_blocks(
    cell: RecurrentCell,
    state: Float[Array, "B S D"],
    tokens: KV,
    starts: Bool[Array, "B N"] | None = None,
    axis: str | None = None,
) -> tuple[Float[Array, "B S D"], KV]:
    """Runs the cell over the N blocks of a segment, restarting it where documents start.

    This is the only sequential part of the model.

    Args:
      cell: the recurrent cell.
      state: the state that enters the first block.
      tokens: keys and values that the states of each block attend to, ``[N, B, H, V, K]``.
      starts: whether a block starts a document.
      axis: axis of the mesh that splits the segment; see `SlidingWindowAttention`. The blocks are
        then those of this device's part, and `state` enters the first part.

    Returns:
      The state after the last block of the segment, and keys and values ``[N, B, H, S, K]`` of the
      state that enters each block.

    Raises:
      UserError: a shape or type does not fit.
    """
    check_shape("state", state, "B", *cell.state_shape)
    batch = state.shape[0]
    check_keys_values("tokens", tokens, "N", batch, cell.num_heads, "V", cell.head_size)
    check_starts(starts, batch, tokens.keys.shape[0])
    if axis is not None:
        graphdef, params = nnx.split(cell)

        def run(params, state, tokens, starts):
            return scan_blocks(nnx.merge(graphdef, params), state, tokens, starts)

        state, read = part_after_part(run, axis, params, state, tokens, starts)
        return of_last_part(state, axis), read

    def step(state, block):
        tokens, starts = block
        return cell(cell.restart(state, starts), tokens)

    return jax.lax.scan(step, state, (tokens, None if starts is None else starts.T))
