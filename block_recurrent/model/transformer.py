"""The Block-Recurrent Transformer (Hutchins et al. 2022, arXiv 2203.07852)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from block_recurrent.errors import UserError
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.feed_forward import RMSNorm
from block_recurrent.model.inputs import (
    check_batch_size,
    check_dropout_key,
    check_rngs,
    check_starts,
    check_state,
    check_tokens,
)
from block_recurrent.model.layers import RecurrentLayer, TransformerLayer
from block_recurrent.model.lstm import LSTMLayer
from block_recurrent.model.ngrams import CONTEXT, NGramEmbedding
from block_recurrent.ops.blocks import from_blocks, to_blocks
from block_recurrent.ops.segment_parts import from_part_before, of_last_part
from block_recurrent.types import BottomState, LayerState, ModelState


class BlockRecurrentTransformer(nnx.Module):
    """A language model over segments of N blocks of W tokens. Its memory is passed as `state`::

        model = BlockRecurrentTransformer(num_layers=6, embedding_size=256, rngs=nnx.Rngs(0))
        state = None                                   # the start of a document
        for segment in document:                       # tokens: int32 [B, N·W]
            logits, state = model(segment, state)      # logits: float32 [B, N·W, L]

    ``logits[:, t]`` predicts token t + 1. Training and evaluation use the same forward pass.

    Args:
      config: a `ModelConfig`, or a mapping of its fields. None: the defaults.
      rngs: random keys for the initial parameters.
      sequence_axis: see `SlidingWindowAttention`. Tokens and `starts` are then those of this
        device's part of the segment, and `state` is that of the whole segment.
      **fields: fields of `ModelConfig`, which override those of `config`.

    Raises:
      UserError: see `ModelConfig`.
    """

    def __init__(
        self,
        config: ModelConfig | Mapping | None = None,
        *,
        rngs: nnx.Rngs,
        sequence_axis: str | None = None,
        **fields,
    ):
        check_rngs(rngs)
        if isinstance(config, ModelConfig):
            config = dataclasses.replace(config, **fields)
        elif config is None or isinstance(config, Mapping):
            config = ModelConfig(**{**(config or {}), **fields})
        else:
            raise UserError(
                f"config is of type {type(config).__name__}: pass a ModelConfig, a mapping of its "
                "fields, or the fields as keywords"
            )
        self.config, self.sequence_axis = config, sequence_axis
        rows, size, param_dtype = config.ngram_rows, config.embedding_size, config.param_dtype
        self.embedding = nnx.Param(
            nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, size), param_dtype)
        )
        self.ngrams = NGramEmbedding(rows, size, param_dtype, rngs=rngs) if rows else None
        self.layers = nnx.List(
            new_layer(config, index, sequence_axis, rngs) for index in range(config.num_layers)
        )
        self.final_norm = RMSNorm(size, dtype=config.dtype, param_dtype=param_dtype, rngs=rngs)

    def initial_state(self, batch_size: int) -> ModelState:
        """The state at the start of a document: one entry per layer."""
        batch_size = check_batch_size(batch_size)
        state = tuple(layer.initial_state(batch_size) for layer in self.layers)
        return self.with_last(jnp.zeros((batch_size, CONTEXT), jnp.int32), state)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        state: ModelState | None = None,
        starts: Bool[Array, "B N"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T L"], ModelState]:
        """Logits of the next tokens, and the state after the segment.

        Args:
          tokens: a segment; T is a multiple of the window length W.
          state: the state after the previous segment. No gradient flows into it. None: all rows are
            at the start of a document, and the learned initial state gets a gradient.
          starts: whether a block starts a document. Before it, keys and values are then replaced by
            zeros, and the recurrent state by the learned initial state. None: no block does.
          dropout_key: switches dropout on.

        Raises:
          UserError: a shape or type does not fit, or, where values are known (not while tracing), a
            token is not in the vocabulary.
        """
        features, state = self.features(tokens, state, starts, dropout_key=dropout_key)
        return self.readout(features), state

    def features(
        self,
        tokens: Int[Array, "B T"],
        state: ModelState | None = None,
        starts: Bool[Array, "B N"] | None = None,
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B T D"], ModelState]:
        """The features that `readout` turns into logits, and the state; see `__call__`.

        This is a separate method so that a loss can compute the logits in chunks.
        """
        window = self.config.window_length
        check_tokens(tokens, self.config.vocab_size, window)
        batch, length = tokens.shape
        check_starts(starts, batch, length // window)
        check_dropout_key(dropout_key)
        keys = (None,) * len(self.layers)
        if dropout_key is not None:
            keys = jax.random.split(dropout_key, len(self.layers))
        if state is None:
            state = self.initial_state(batch)
        else:
            check_state(state, jax.eval_shape(lambda: self.initial_state(batch)))
            state = jax.lax.stop_gradient(state)
        state, before = self.without_last(state)
        with jax.named_scope("embedding"):
            x = self.embed(tokens, before, starts)
        stack = self.stack_block_by_block if self.config.feedback else self.stack
        x, state = stack(x, state, starts, keys)
        return self.final_norm(x), self.with_last(tokens, state)

    def embed(
        self,
        tokens: Int[Array, "B T"],
        before: Int[Array, "B C"] | None = None,
        starts: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Embeddings of the tokens, the input of the first layer.

        Args:
          tokens: a segment.
          before: with n-grams, the tokens before the segment, from the state.
          starts: whether a block starts a document.
        """
        x = jnp.take(self.embedding[...], tokens, axis=0)
        if self.ngrams is not None:
            before = from_part_before(tokens[:, -CONTEXT:], before, self.sequence_axis)
            x = x + self.ngrams(tokens, before, starts)
        return x.astype(self.config.dtype)

    def with_last(self, tokens: Int[Array, "B T"] | None, state: ModelState) -> ModelState:
        """With n-grams, adds the last of the tokens that have been read to the state."""
        if self.ngrams is None:
            return state
        cache, recurrent, *_ = state[0]
        last = of_last_part(tokens[:, -CONTEXT:].astype(jnp.int32), self.sequence_axis)
        return BottomState(cache, recurrent, last), *state[1:]

    def without_last(self, state: ModelState) -> tuple[ModelState, Int[Array, "B C"] | None]:
        """Separates the last tokens, which are None without n-grams, from the layers' states."""
        if self.ngrams is None:
            return state, None
        *bottom, tokens = state[0]
        return (LayerState(*bottom), *state[1:]), tokens

    def readout(self, features: Float[Array, "*batch D"]) -> Float[Array, "*batch L"]:
        """Logits: features · embeddingᵀ / √D. Input and output share the embedding."""
        embedding = self.embedding[...].astype(jnp.float32) * self.config.embedding_size**-0.5
        embedding = embedding.astype(features.dtype)
        return jnp.einsum("...D,LD->...L", features, embedding, preferred_element_type=jnp.float32)

    def stack(self, x, state, starts, keys, states=None):
        """Runs the layers one after the other, each over the whole segment."""
        after = []
        for layer, before, key in zip(self.layers, state, keys, strict=True):
            graphdef, params = nnx.split(layer)
            run = functools.partial(run_layer, graphdef)
            run = jax.checkpoint(run) if self.config.remat == "layer" else run
            x, layer_state = run(params, x, before, starts, states, key)
            after.append(layer_state)
        return x, tuple(after)

    def stack_block_by_block(self, x, state, starts, keys):
        """Runs all layers on one block after the other, for feedback (section 3.4 of the paper).

        In each block, every layer reads the recurrent state that enters the block.
        """
        source = self.config.recurrent_indices[-1]
        cell = self.layers[source].cell

        def step(state, block):
            x, start = block
            entering = cell.restart(state[source].recurrent, start)
            states = jax.tree.map(lambda leaf: leaf[None], cell.read(entering))
            start = None if start is None else start[:, None]
            x, state = self.stack(x, state, start, keys, states)
            return state, x

        blocks = to_blocks(x, self.config.window_length)
        state, blocks = jax.lax.scan(step, state, (blocks, None if starts is None else starts.T))
        return from_blocks(blocks), state


def new_layer(
    config: ModelConfig, index: int, sequence_axis: str | None, rngs: nnx.Rngs
) -> nnx.Module:
    """Creates the layer at `index`, counted from the bottom."""
    if config.layer == "lstm":
        return LSTMLayer(config, rngs=rngs)
    if index in config.recurrent_indices:
        return RecurrentLayer(config, sequence_axis=sequence_axis, rngs=rngs)
    return TransformerLayer(
        config, read_states=config.feedback, sequence_axis=sequence_axis, rngs=rngs
    )


@functools.partial(jax.jit, static_argnums=0)
def run_layer(graphdef, params, x, state, starts, states, dropout_key):
    """Runs a layer. JAX traces and differentiates this function only once for equal layers."""
    layer = nnx.merge(graphdef, params)
    return layer(x, state, starts, states=states, dropout_key=dropout_key)


def parameters(model: BlockRecurrentTransformer) -> dict[str, Any]:
    """The model's parameters as a pure dict of arrays, which is cheap to pass to `jax.jit`."""
    return nnx.to_pure_dict(nnx.state(model))


def abstract_model(
    config: ModelConfig, sequence_axis: str | None = None
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The structure of a model and the shapes of its parameters, without allocating them."""
    model = nnx.eval_shape(
        lambda: BlockRecurrentTransformer(config, sequence_axis=sequence_axis, rngs=nnx.Rngs(0))
    )
    return nnx.graphdef(model), parameters(model)
