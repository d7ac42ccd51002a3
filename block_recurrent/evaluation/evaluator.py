"""Score whole documents, carrying the state from segment to segment."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from block_recurrent.data.document_queue import NO_DOCUMENT
from block_recurrent.data.documents import Documents
from block_recurrent.data.lanes import Batch, LanePosition, Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.evaluation.loss_profile import Profile, distances, make_profile, sum_profiles
from block_recurrent.evaluation.score import Score
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.losses import token_scores
from block_recurrent.parallel.sharding import Layout
from block_recurrent.types import ModelState

# Called before the first batch and after every batch, in all processes: what is computed, the
# number of tokens read so far, and the number to read. It may raise an exception to end the pass.
AfterBatch = Callable[[str, int, int], None]


class EvalState(NamedTuple):
    """The state that is carried from one segment to the next.

    Attributes:
      model: the model's state.
      distance: number of tokens that each row has read of its document.
    """

    model: ModelState
    distance: Int[Array, " B"]


def evaluation_shape(
    documents: Documents, model: ModelConfig, batch_size: int, segment_length: int, ways: int = 1
) -> tuple[int, int]:
    """Choose the number of rows and the segment length, for no more tokens than a training batch.

    A document stays in one row, so with many rows most would be idle while the longest document is
    read. This function chooses fewer rows and longer segments instead. The number of rows is a
    multiple of `ways`. With full attention, the segment is the context, so both stay as in
    training.
    """
    if model.segment_is_context:
        return batch_size, segment_length
    useful = -(-documents.num_tokens // int(np.max(documents.lengths)))
    rows = min(batch_size, -(-useful // ways) * ways)
    return rows, batch_size // rows * segment_length


class Evaluator:
    """Scores every token of `documents` exactly once, each document from start to end.

    Rows are independent and documents start at block boundaries, so the batch size and the segment
    length change the result only by rounding. (With full attention the segment is the context, and
    its length matters.)

    Raises:
      UserError: there are no documents, or the segment is not a multiple of the window.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        documents: Documents,
        window_length: int,
        batch_size: int,
        segment_length: int,
        layout: Layout,
    ):
        self.documents, self.layout = documents, layout
        self.lanes = Lanes(
            documents, batch_size, segment_length, window_length, shuffle=False, repeat=False
        )

        def score_rows(params, state, batch, _):
            model = nnx.merge(graphdef, params)
            features, state = model.features(batch.inputs, state, batch.starts)
            return token_scores(model, features, batch.targets), state

        def step(
            params: dict[str, Any], state: EvalState, batch: Batch
        ) -> tuple[Profile, EvalState]:
            scores, model_state = layout.by_rows(score_rows)(
                layout.gather(params), state.model, batch, None
            )
            distance = distances(batch.starts, state.distance, window_length)
            is_text = (batch.targets != 0) | (batch.weights > 0)  # 0 can be a token of text
            reads = is_text[:, -window_length:].any(axis=1)  # a document, not padding
            states = recurrent_states(model_state)
            profile = make_profile(
                scores,
                batch.weights,
                distance,
                mean_squares(states) if states else jnp.zeros(batch_size),
                reads & bool(states),
            )
            return profile, EvalState(layout.split_state(model_state), distance[:, -1] + 1)

        def initial(params: dict[str, Any]) -> EvalState:
            state = nnx.merge(graphdef, params).initial_state(batch_size)
            return EvalState(layout.split_state(state), jnp.zeros(batch_size, jnp.int32))

        self.initial = jax.jit(initial)
        self.step = jax.jit(step, donate_argnums=1, out_shardings=(layout.replicated, None))

    def __call__(self, params: dict[str, Any], after_batch: AfterBatch = lambda *_: None) -> Score:
        """Score all documents with these parameters."""
        state, profiles = self.initial(params), []
        rows = self.layout.local_rows(self.lanes.batch_size)
        begin, put = self.lanes.initial_position(), self.layout.put
        after_batch("evaluating", 0, self.documents.num_tokens)
        with prefetch(self.lanes, begin, rows, put) as batches:
            for batch, position in batches:
                # Wait for each step. Where the devices are CPU threads, two steps in flight can
                # stall: threads that wait in the collectives of one starve those of the other.
                profile, state = jax.block_until_ready(self.step(params, state, batch))
                profiles.append(profile)
                read = tokens_read(self.lanes, position)
                after_batch("evaluating", read, self.documents.num_tokens)
        profile, documents = sum_profiles(profiles), self.documents
        counts = documents.num_bytes, documents.num_words, documents.num_characters
        share = profile.tokens.sum() / documents.num_tokens
        counts = (None if n is None else round(n * share) for n in counts)
        return Score(profile, *counts, documents.text_lost)


def tokens_read(lanes: Lanes, position: LanePosition) -> int:
    """The number of tokens before a position, in the first epoch."""
    is_open = position.document != NO_DOCUMENT
    left = lanes.documents.lengths[position.document] - position.offset
    return int(position.taken.sum() - left[is_open].sum())


def recurrent_states(model: ModelState) -> list[Float[Array, "B S D"]]:
    """The recurrent states of the layers that have one."""
    return [layer.recurrent for layer in model if layer.recurrent is not None]


def mean_squares(states: list[Float[Array, "B S D"]]) -> Float[Array, " B"]:
    """The mean square of the elements of all layers' states, for each row."""
    return jnp.mean(jnp.stack([jnp.square(each).mean(axis=(1, 2)) for each in states]), axis=0)
