"""Read a text with several memories at once: what each token costs, and which states it reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Integer

from block_recurrent.analysis.inspection import LayerActivity, inspect_block
from block_recurrent.data.vocabularies import PADDING
from block_recurrent.evaluation.memory_worth import MEMORIES
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.types import ModelState

NUM_PREDICTED = 5  # tokens of the predicted distribution that are kept
NUM_READ = 6  # states that are kept of those that a token attends to
CARRIED, CLEARED, SWAPPED, OTHER = range(4)  # rows of the batch


class LayerReading(NamedTuple):
    """What one recurrent layer does along the text. An incomplete last block changes no state.

    Attributes:
      states: the states that each token attends to most.
      weights: its attention to them, mean over heads.
      attention: attention of each block's tokens to each state, mean over heads and tokens.
      change: norm of the change of each state in each block, relative to its norm afterwards.
      keep: the share of the old state that the gates keep, mean over units.
    """

    states: Int[np.ndarray, "T R"]
    weights: Float[np.ndarray, "T R"]
    attention: Float[np.ndarray, "N S"]
    change: Float[np.ndarray, "N S"]
    keep: Float[np.ndarray, "N S"]


class Reading(NamedTuple):
    """What reading a text showed.

    Attributes:
      tokens: the text.
      bits: loss of each token, by memory: 'carried', 'cleared' (the state that enters every block
        is the learned initial one) and, if another document was read, 'swapped' (the state that
        enters every block is that of the other document at the same block, or at its end).
      predicted: the most likely tokens at each position, with memory.
      probabilities: their probabilities.
      layers: layer index → `LayerReading`, with memory.
    """

    tokens: Int[np.ndarray, " T"]
    bits: dict[str, Float[np.ndarray, " T"]]
    predicted: Int[np.ndarray, "T P"]
    probabilities: Float[np.ndarray, "T P"]
    layers: dict[int, LayerReading]


class Reader:
    """Reads texts with a model that has recurrent layers. It compiles once, for all texts.

    Keys and values of earlier tokens are carried with every memory. Each row has its own, so that
    nothing of the state reaches the rows without it.

    Args:
      model: the model.
    """

    def __init__(self, model: BlockRecurrentTransformer):
        graphdef, params = nnx.split(model)
        self.model, self.params = model, nnx.to_pure_dict(params)

        def step(params, state, inputs, targets, is_text, other_goes_on):
            model = nnx.merge(graphdef, params)
            state = set_memories(model, state)
            features, activities, after = inspect_block(model, inputs, state)
            after = hold_other(state, after, other_goes_on)
            log_probs = jax.nn.log_softmax(model.readout(features[:OTHER]))
            chosen = jnp.take_along_axis(log_probs, targets[None, :, None], axis=-1)[..., 0]
            top, predicted = jax.lax.top_k(log_probs[CARRIED], NUM_PREDICTED)
            layers = {index: summarize(activity, is_text) for index, activity in activities.items()}
            return (-chosen / jnp.log(2), predicted, jnp.exp(top), layers), after

        self._step = jax.jit(step)

    def __call__(
        self,
        tokens: Integer[np.ndarray, " T"],
        other: Integer[np.ndarray, " M"] | None = None,
        after_block: Callable[[int], Any] = lambda _: None,
    ) -> Reading:
        """Read a text from its start.

        Args:
          tokens: the text, at least one token.
          other: another document, at least one block, for the memory 'swapped'.
          after_block: called with the number of tokens read so far.
        """
        window = self.model.config.window_length
        state, found = self.start(has_other=other is not None), []
        for block in range(-(-len(tokens) // window)):
            step, state = self.read_block(state, tokens, block, other)
            found.append(step)
            after_block(min((block + 1) * window, len(tokens)))
        return collect(jax.device_get(found), tokens)

    def start(self, *, has_other: bool = False) -> ModelState:
        """The state before a text: two rows, or four with another document."""
        return self.model.initial_state(4 if has_other else 2)

    def read_block(
        self,
        state: ModelState,
        tokens: Integer[np.ndarray, " T"],
        block: int,
        other: Integer[np.ndarray, " M"] | None = None,
    ) -> tuple[tuple, ModelState]:
        """Read one block of a text.

        Args:
          state: the state before the block.
          tokens: the text. If it ends inside the block, the state afterwards is of no use.
          block: number of the block.
          other: as in `__call__`.

        Returns:
          What `collect` puts together, and the state after the block.
        """
        window = self.model.config.window_length
        first = block * window
        inputs = [block_at(tokens[:-1], first - 1, window)] * 2
        if other is not None:
            inputs += [inputs[0], block_at(other[:-1], first - 1, window)]
        targets = block_at(tokens, first, window)
        is_text = np.arange(first, first + window) < len(tokens)
        goes_on = other is None or block < len(other) // window
        return self._step(self.params, state, np.stack(inputs), targets, is_text, goes_on)


def set_memories(model: BlockRecurrentTransformer, state: ModelState) -> ModelState:
    """The state before a block, with the recurrent states that belong to each row's memory."""
    layers = []
    for layer, initial in zip(state, model.initial_state(1), strict=True):
        if layer.recurrent is not None:
            recurrent = layer.recurrent.at[CLEARED].set(initial.recurrent[0])
            if len(recurrent) > OTHER:
                recurrent = recurrent.at[SWAPPED].set(recurrent[OTHER])
            layer = layer._replace(recurrent=recurrent)
        layers.append(layer)
    return tuple(layers)


def hold_other(before: ModelState, after: ModelState, goes_on: Bool[Array, ""]) -> ModelState:
    """Keeps the recurrent states of the other document as they were, once it has ended."""
    layers = []
    for old, new in zip(before, after, strict=True):
        if new.recurrent is not None and len(new.recurrent) > OTHER:
            last = jnp.where(goes_on, new.recurrent[OTHER], old.recurrent[OTHER])
            new = new._replace(recurrent=new.recurrent.at[OTHER].set(last))
        layers.append(new)
    return tuple(layers)


def summarize(activity: LayerActivity, is_text: Bool[Array, " W"]) -> LayerReading:
    """A `LayerReading` of one block, from the row whose memory is carried."""
    weights = activity.tokens_to_states[CARRIED].mean(axis=0)
    top, states = jax.lax.top_k(weights, min(NUM_READ, weights.shape[-1]))
    before, after = activity.entering[CARRIED], activity.leaving[CARRIED]
    change = jnp.linalg.norm(after - before, axis=-1) / jnp.linalg.norm(after, axis=-1)
    kept = [values.keep[CARRIED] for values in activity.gates.values()]
    keep = jnp.prod(jnp.stack(kept), axis=0).mean(axis=-1)
    attention = (weights * is_text[:, None]).sum(axis=0) / is_text.sum()
    return LayerReading(states, top, attention, jnp.where(is_text.all(), change, 0), keep)


def inputs_of(tokens: Integer[np.ndarray, " T"]) -> Integer[np.ndarray, " T"]:
    """The token before each token."""
    return np.concatenate([[PADDING], tokens[:-1]])


def block_at(tokens: Integer[np.ndarray, " T"], first: int, window: int) -> Int[np.ndarray, " W"]:
    """The tokens from one index on, with padding before the text and after it."""
    block, start = np.full(window, PADDING, np.int32), max(first, 0)
    part = tokens[start : first + window]
    block[start - first : start - first + len(part)] = part
    return block


def collect(steps: list[tuple], tokens: Integer[np.ndarray, " T"]) -> Reading:
    """Puts consecutive blocks together, with their tokens."""
    bits, predicted, probabilities, layers = zip(*steps, strict=True)
    length = len(tokens)

    def joined(blocks):
        return np.concatenate(blocks)[:length]

    rows = np.concatenate(bits, axis=1)[:, :length]
    readings = {}
    for index in layers[0]:
        fields = LayerReading(*zip(*(block[index] for block in layers), strict=True))
        readings[index] = LayerReading(
            joined(fields.states), joined(fields.weights), *map(np.stack, fields[2:])
        )
    memories = dict(zip(MEMORIES, rows, strict=False))
    return Reading(
        np.asarray(tokens, np.int32), memories, joined(predicted), joined(probabilities), readings
    )
