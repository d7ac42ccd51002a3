"""Loss over whole held-out documents, the state carried from segment to segment."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from block_recurrent.data.documents import Documents
from block_recurrent.data.lanes import Batch, Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.evaluation.loss_profile import Profile, distances, make_profile, total
from block_recurrent.model.losses import token_scores
from block_recurrent.parallel.sharding import Layout
from block_recurrent.types import ModelState


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a model predicts documents: the loss over all their tokens.

    Attributes:
      profile: nats, tokens and correct ones by distance from the start of the document.
      num_bytes: raw bytes of the documents; where not all tokens count, in proportion.
      num_words: words of the raw documents, likewise.
      num_characters: characters of the raw documents, likewise; None where they were not counted.
    """

    profile: Profile
    num_bytes: int
    num_words: int
    num_characters: int | None

    @property
    def nats(self) -> float:
        """The loss summed over all tokens."""
        return float(self.profile.nats.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens predicted, the end of every document among them."""
        return int(self.profile.tokens.sum())

    def metrics(self) -> dict[str, float]:
        """loss (nats a token), accuracy, bits_per_token, _byte and _character, word_perplexity.

        The last is e to the nats a word, as the authors of PG19 report it (Rae et al. 2020): it
        compares models of different vocabularies. It is left out where there are no words, and bits
        a character where characters were not counted.
        """
        bits = self.nats / math.log(2)
        metrics = {
            "loss": self.nats / self.num_tokens,
            "accuracy": float(self.profile.correct.sum()) / self.num_tokens,
            "bits_per_token": bits / self.num_tokens,
            "bits_per_byte": bits / self.num_bytes,
        }
        if self.num_characters:
            metrics["bits_per_character"] = bits / self.num_characters
        if self.num_words:
            nats = self.nats / self.num_words
            metrics["word_perplexity"] = math.exp(nats) if nats < 700 else math.inf
        return metrics


class EvalState(NamedTuple):
    """Where the rows stand between two segments.

    Attributes:
      model: the model's state.
      distance: tokens of its document that each row has read.
    """

    model: ModelState
    distance: Int[Array, " B"]


def evaluation_shape(
    documents: Documents, attention: str, batch_size: int, segment_length: int, ways: int = 1
) -> tuple[int, int]:
    """Rows and segment length that waste little, with at most as many tokens as a training batch.

    A document stays in one row, so that more rows than the longest document fits into all tokens
    would stand idle: fewer rows of longer segments instead. Rows are a multiple of `ways`. Under
    full attention the segment is the context, and both stay as in training.
    """
    if attention == "full":
        return batch_size, segment_length
    useful = -(-documents.num_tokens // int(np.max(documents.lengths)))
    rows = min(batch_size, -(-useful // ways) * ways)
    return rows, batch_size // rows * segment_length


class Evaluator:
    """Scores every token of `documents` exactly once, each document walked whole.

    Rows do not influence each other, and documents start at block boundaries, so that neither the
    batch size nor the segment length changes the result by more than rounding (under full
    attention the segment is the context, and its length matters).

    Raises:
      UserError: no documents, or a segment that is no multiple of the window.
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

        def scores_of_rows(params, state, batch, _):
            model = nnx.merge(graphdef, params)
            features, state = model.features(batch.inputs, state, batch.starts)
            return token_scores(model, features, batch.targets), state

        def step(
            params: dict[str, Any], walk: EvalState, batch: Batch
        ) -> tuple[Profile, EvalState]:
            scores, state = layout.by_rows(scores_of_rows)(
                layout.gather(params), walk.model, batch, None
            )
            distance = distances(batch.starts, walk.distance, window_length)
            profile = make_profile(scores, batch.weights, distance)
            return profile, EvalState(layout.split_state(state), distance[:, -1] + 1)

        def initial(params: dict[str, Any]) -> EvalState:
            state = nnx.merge(graphdef, params).initial_state(batch_size)
            return EvalState(layout.split_state(state), jnp.zeros(batch_size, jnp.int32))

        self.initial = jax.jit(initial)
        self.step = jax.jit(step, donate_argnums=1, out_shardings=(layout.replicated, None))

    def __call__(self, params: dict[str, Any]) -> Score:
        walk, profiles = self.initial(params), []
        rows = self.layout.rows_here(self.lanes.batch_size)
        begin, put = self.lanes.initial_position(), self.layout.put
        with prefetch(self.lanes, begin, rows, put) as batches:
            for batch, _ in batches:
                # Awaited: no step waits for the profile of the one before, and devices that are
                # CPU threads, waiting in the collectives of two steps, starve the others.
                step = self.step(params, walk, batch)
                profile, walk = jax.block_until_ready(step)
                profiles.append(profile)
        profile, documents = total(profiles), self.documents
        counts = documents.num_bytes, documents.num_words, documents.num_characters
        share = profile.tokens.sum() / documents.num_tokens
        return Score(profile, *(None if n is None else round(n * share) for n in counts))
