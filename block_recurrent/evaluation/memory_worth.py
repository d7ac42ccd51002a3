"""What the recurrent state is worth: the loss with it, without it, and with another document's."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from block_recurrent.data.lanes import Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.evaluation.evaluator import EvalState, Evaluator
from block_recurrent.evaluation.loss_profile import Profile, total
from block_recurrent.types import ModelState

MEMORIES = ("carried", "cleared", "swapped")
MAX_TOKENS = 2**16  # that `MemoryProbe.worth` looks at,
LEAST_SEGMENTS = 8  # but these at least: the first one has no memory to lose


class MemoryProbe:
    """Walks through documents several times side by side, with different recurrent states.

    A document starts with a segment, and whatever happens to the state happens between segments:
    'carried' leaves it as it is, 'cleared' puts the learned initial state in its place, 'swapped'
    the state that the row before has made of another document up to there. The keys and values of
    the last W tokens are carried in all of them, so that the differences are the state's alone.

    Args:
      evaluator: of a model with recurrent layers; its documents and compiled step are used.
      segment_length: tokens T between two changes: that of training, which the model is used to.
    """

    def __init__(self, evaluator: Evaluator, segment_length: int):
        self.evaluator = evaluator
        documents, rows = evaluator.documents, evaluator.lanes.batch_size
        self.blocks = segment_length // evaluator.lanes.window_length
        # Documents are to start with a segment, so that is the block here.
        self.lanes = Lanes(
            documents, rows, segment_length, segment_length, shuffle=False, repeat=False
        )

        def clear(params: dict[str, Any], walk: EvalState) -> EvalState:
            return with_states(walk, recurrent_states(self.evaluator.initial(params).model))

        def swap(walk: EvalState, others: list[Array]) -> EvalState:
            return with_states(walk, [jnp.roll(states, 1, axis=0) for states in others])

        def latest(
            others: list[Array], carried: list[Array], weights: Float[Array, "B T"]
        ) -> list[Array]:
            # A row without documents keeps the state of its last one.
            live = weights.any(axis=1)[:, None, None]
            return [jnp.where(live, *pair) for pair in zip(carried, others, strict=True)]

        self.clear = jax.jit(clear, donate_argnums=1)
        self.swap = jax.jit(swap, donate_argnums=0)
        self.latest = jax.jit(latest)

    def __call__(
        self, params: dict[str, Any], memories: tuple[str, ...], max_segments: int | None = None
    ) -> dict[str, Profile]:
        """The loss of the same tokens with each memory.

        Args:
          params: of the model.
          memories: of `MEMORIES`; the first is always there.
          max_segments: of every row; None: all.
        """
        walks = {memory: self.evaluator.initial(params) for memory in memories}
        others = recurrent_states(self.evaluator.initial(params).model)
        found = {memory: [] for memory in memories}
        layout = self.evaluator.layout
        rows = layout.rows_here(self.lanes.batch_size)

        def put(batch):
            starts = np.pad(batch.starts, ((0, 0), (0, self.blocks - 1)))
            return layout.put(batch._replace(starts=starts))

        with prefetch(self.lanes, self.lanes.initial_position(), rows, put) as batches:
            for batch, _ in itertools.islice(batches, max_segments):
                if "cleared" in walks:
                    walks["cleared"] = self.clear(params, walks["cleared"])
                if "swapped" in walks:
                    walks["swapped"] = self.swap(walks["swapped"], others)
                for memory in memories:
                    # Awaited, as in `Evaluator`.
                    step = self.evaluator.step(params, walks[memory], batch)
                    profile, walks[memory] = jax.block_until_ready(step)
                    found[memory].append(profile)
                if "swapped" in walks:
                    carried = recurrent_states(walks["carried"].model)
                    others = self.latest(others, carried, batch.weights)
        return {memory: total(profiles) for memory, profiles in found.items()}

    def worth(self, params: dict[str, Any]) -> float:
        """Bits a token that clearing costs, over the first segments of the longest documents.

        Some `MAX_TOKENS` tokens tell enough: the difference, on the same tokens, varies far less
        than the loss.
        """
        tokens = self.lanes.batch_size * self.lanes.segment_length
        segments = max(LEAST_SEGMENTS, MAX_TOKENS // tokens)
        found = self(params, MEMORIES[:2], segments)
        return found["cleared"].bits_per_token - found["carried"].bits_per_token


def recurrent_states(model: ModelState) -> list[Float[Array, "B S D"]]:
    """Those of the layers that have any."""
    return [layer.recurrent for layer in model if layer.recurrent is not None]


def with_states(walk: EvalState, states: list[Float[Array, "B S D"]]) -> EvalState:
    """The walk with these recurrent states in the place of its own."""
    left = iter(states)
    model = [
        layer if layer.recurrent is None else layer._replace(recurrent=next(left))
        for layer in walk.model
    ]
    return walk._replace(model=tuple(model))
