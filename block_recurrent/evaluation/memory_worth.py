"""How much the recurrent state helps: the loss with it, without it, and with another document's."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from block_recurrent.data.lanes import Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.evaluation.evaluator import (
    AfterBatch,
    EvalState,
    Evaluator,
    recurrent_states,
    tokens_read,
)
from block_recurrent.evaluation.loss_profile import Profile, sum_profiles

MEMORIES = ("carried", "cleared", "swapped")
# `MemoryProbe.memory_worth` reads about MAX_TOKENS tokens, but at least MIN_SEGMENTS segments of
# every row, because the first segment of a document has no memory to lose.
MAX_TOKENS = 2**16
MIN_SEGMENTS = 8


class MemoryProbe:
    """Evaluates the same documents several times in parallel, with different recurrent states.

    Every document starts at the beginning of a segment. The state is changed between segments:

    - 'carried' keeps it;
    - 'cleared' replaces it by the learned initial state;
    - 'swapped' replaces it by the state of the previous row, which reads another document.

    The keys and values of the last W tokens are carried in all cases, so that only the recurrent
    state makes a difference.

    Args:
      evaluator: evaluator of a model with recurrent layers. The probe uses its documents and its
        compiled step.
      segment_length: tokens between two changes of the state. Use the segment length of training.
    """

    def __init__(self, evaluator: Evaluator, segment_length: int):
        self.evaluator = evaluator
        documents, rows = evaluator.documents, evaluator.lanes.batch_size
        self.blocks = segment_length // evaluator.lanes.window_length
        # Documents must start at a segment boundary, so the block of these lanes is a segment.
        self.lanes = Lanes(
            documents, rows, segment_length, segment_length, shuffle=False, repeat=False
        )

        def clear(params: dict[str, Any], state: EvalState) -> EvalState:
            initial = self.evaluator.initial(params).model
            return replace_recurrent_states(state, recurrent_states(initial))

        def swap(state: EvalState, latest: list[Array]) -> EvalState:
            others = [jnp.roll(states, 1, axis=0) for states in latest]
            return replace_recurrent_states(state, others)

        def update_latest(
            latest: list[Array], carried: list[Array], weights: Float[Array, "B T"]
        ) -> list[Array]:
            # A row that has run out of documents keeps the state of its last one.
            active = weights.any(axis=1)[:, None, None]
            return [jnp.where(active, *pair) for pair in zip(carried, latest, strict=True)]

        self.clear = jax.jit(clear, donate_argnums=1)
        self.swap = jax.jit(swap, donate_argnums=0)
        self.update_latest = jax.jit(update_latest)

    def __call__(
        self,
        params: dict[str, Any],
        memories: tuple[str, ...],
        max_segments: int | None = None,
        after_batch: AfterBatch = lambda *_: None,
    ) -> dict[str, Profile]:
        """Compute the loss of the same tokens with each memory.

        Args:
          params: parameters of the model.
          memories: which of `MEMORIES` to compute; must include 'carried'.
          max_segments: segments to read of every row; None: all.
          after_batch: called after every batch, which is read once for each memory.
        """
        states = {memory: self.evaluator.initial(params) for memory in memories}
        latest = recurrent_states(self.evaluator.initial(params).model)
        profiles = {memory: [] for memory in memories}
        layout = self.evaluator.layout
        rows = layout.local_rows(self.lanes.batch_size)

        def put(batch):
            starts = np.pad(batch.starts, ((0, 0), (0, self.blocks - 1)))
            return layout.put(batch._replace(starts=starts))

        total = self._tokens_to_read(max_segments)
        after_batch("memory worth", 0, total)
        with prefetch(self.lanes, self.lanes.initial_position(), rows, put) as batches:
            for batch, position in itertools.islice(batches, max_segments):
                if "cleared" in states:
                    states["cleared"] = self.clear(params, states["cleared"])
                if "swapped" in states:
                    states["swapped"] = self.swap(states["swapped"], latest)
                for memory in memories:
                    # Wait for each step, for the reason given in `Evaluator`.
                    step = self.evaluator.step(params, states[memory], batch)
                    profile, states[memory] = jax.block_until_ready(step)
                    profiles[memory].append(profile)
                if "swapped" in states:
                    carried = recurrent_states(states["carried"].model)
                    latest = self.update_latest(latest, carried, batch.weights)
                after_batch("memory worth", tokens_read(self.lanes, position), total)
        return {memory: sum_profiles(each) for memory, each in profiles.items()}

    def _tokens_to_read(self, max_segments: int | None) -> int:
        """The number of tokens in this many segments of every row; None: in all."""
        if max_segments is None:
            return self.evaluator.documents.num_tokens
        position, segments = self.lanes.initial_position(), 0
        while segments < max_segments and not self.lanes.exhausted(position):
            _, position = self.lanes.read(position, slice(0))  # plans the batch, and reads no row
            segments += 1
        return tokens_read(self.lanes, position)

    def memory_worth(
        self, params: dict[str, Any], after_batch: AfterBatch = lambda *_: None
    ) -> float:
        """Bits per token lost by clearing, over the first segments of the longest documents.

        About `MAX_TOKENS` tokens are enough: the difference between two losses of the same tokens
        varies far less than the loss itself.
        """
        tokens = self.lanes.batch_size * self.lanes.segment_length
        segments = max(MIN_SEGMENTS, MAX_TOKENS // tokens)
        found = self(params, MEMORIES[:2], segments, after_batch)
        return found["cleared"].bits_per_token - found["carried"].bits_per_token


def replace_recurrent_states(state: EvalState, new: list[Float[Array, "B S D"]]) -> EvalState:
    """The state with `new` as its recurrent states, in the order of the layers."""
    remaining = iter(new)
    model = [
        layer if layer.recurrent is None else layer._replace(recurrent=next(remaining))
        for layer in state.model
    ]
    return state._replace(model=tuple(model))
