"""The Block-Recurrent Transformer (Hutchins et al. 2022, arXiv 2203.07852)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from block_recurrent.model.config import ModelConfig
from block_recurrent.model.feed_forward import RMSNorm
from block_recurrent.model.layers import RecurrentLayer, TransformerLayer
from block_recurrent.model.lstm import LSTMLayer
from block_recurrent.ops.blocks import from_blocks, to_blocks
from block_recurrent.types import ModelState


class BlockRecurrentTransformer(nnx.Module):
    """A language model over segments of N blocks of W tokens, with all its memory in `state`::

        model = BlockRecurrentTransformer(num_layers=6, embedding_size=256, rngs=nnx.Rngs(0))
        state = None                                   # the start of a document
        for segment in document:                       # tokens: int32 [B, N·W]
            logits, state = model(segment, state)      # logits: float32 [B, N·W, L]

    ``logits[:, t]`` predict token t + 1. Training, evaluation and generation are this one call.

    Args:
      config: a `ModelConfig` or a mapping of its fields; single fields may follow by keyword.
      rngs: keys of the initial parameters.
    """

    def __init__(
        self,
        config: ModelConfig | Mapping | None = None,
        *,
        rngs: nnx.Rngs,
        **fields,
    ):
        if isinstance(config, ModelConfig):
            config = dataclasses.replace(config, **fields)
        else:
            config = ModelConfig(**{**(config or {}), **fields})
        self.config = config
        self.embedding = nnx.Param(
            nnx.initializers.normal(1.0)(rngs.params(), (config.vocab_size, config.embedding_size))
        )
        self.layers = nnx.List(new_layer(config, index, rngs) for index in range(config.num_layers))
        self.final_norm = RMSNorm(config.embedding_size, dtype=config.dtype, rngs=rngs)

    def initial_state(self, batch_size: int) -> ModelState:
        """The state at the start of a document: one entry per layer."""
        return tuple(layer.initial_state(batch_size) for layer in self.layers)

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
          state: the state after the segment before. No gradient flows into it. None: all rows are
            at the start of a document, and the gradient reaches the learned initial state.
          starts: where a block begins a new document: keys and values before it become zeros, and
            the recurrent state its learned initial value. None: nowhere.
          dropout_key: switches dropout on.
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
        """What `readout` turns into logits, separate so that a loss can do that in chunks.

        Raises:
          ValueError: T is not a multiple of the window length.
        """
        window = self.config.window_length
        if tokens.shape[1] == 0 or tokens.shape[1] % window:
            raise ValueError(f"{tokens.shape[1]} tokens are not a multiple of the window, {window}")
        keys = (None,) * len(self.layers)
        if dropout_key is not None:
            keys = jax.random.split(dropout_key, len(self.layers))
        x = self.embed(tokens)
        if state is None:
            state = self.initial_state(len(tokens))
        else:
            state = jax.lax.stop_gradient(state)
        stack = self.stack_block_by_block if self.config.feedback else self.stack
        x, state = stack(x, state, starts, keys)
        return self.final_norm(x), state

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Embeddings of the tokens, the input of the first layer."""
        return jnp.take(self.embedding[...], tokens, axis=0).astype(self.config.dtype)

    def readout(self, features: Float[Array, "*batch D"]) -> Float[Array, "*batch L"]:
        """Logits: features · embeddingᵀ / √D, with the embedding of the input."""
        embedding = (self.embedding[...] * self.config.embedding_size**-0.5).astype(features.dtype)
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
        """Feedback (section 3.4): in each block, every layer reads the state that enters it."""
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


def new_layer(config: ModelConfig, index: int, rngs: nnx.Rngs) -> nnx.Module:
    """The layer at `index`, from the bottom."""
    if config.layer == "lstm":
        return LSTMLayer(config, rngs=rngs)
    if index in config.recurrent_indices:
        return RecurrentLayer(config, rngs=rngs)
    return TransformerLayer(config, read_states=config.feedback, rngs=rngs)


@functools.partial(jax.jit, static_argnums=0)
def run_layer(graphdef, params, x, state, starts, states, dropout_key):
    """Runs a layer, in a function that JAX traces and differentiates once for all equal layers."""
    layer = nnx.merge(graphdef, params)
    return layer(x, state, starts, states=states, dropout_key=dropout_key)


def parameters(model: BlockRecurrentTransformer) -> dict[str, Any]:
    """The model's parameters as a pure dict of arrays, which is cheap to pass through `jax.jit`."""
    return nnx.to_pure_dict(nnx.state(model))


def abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The model's structure, and the shapes of its parameters. Nothing is computed."""
    model = nnx.eval_shape(lambda: BlockRecurrentTransformer(config, rngs=nnx.Rngs(0)))
    return nnx.graphdef(model), parameters(model)
