"""Loss over whole held-out documents, the state carried from segment to segment."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from block_recurrent.data.documents import Documents
from block_recurrent.data.lanes import Batch, Lanes
from block_recurrent.data.prefetch import prefetch
from block_recurrent.losses import summed_loss
from block_recurrent.sharding import Layout
from block_recurrent.types import ModelState


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a model predicts documents: the loss summed over all their tokens.

    Attributes:
      nats: the sum.
      num_tokens: tokens predicted, the end of every document among them.
      num_bytes: raw bytes of the documents.
      num_words: words of the raw documents.
    """

    nats: float
    num_tokens: int
    num_bytes: int
    num_words: int

    def metrics(self) -> dict[str, float]:
        """loss (nats a token), bits_per_token, bits_per_byte and word_perplexity.

        The last is e to the nats a word, as the authors of PG19 report it (Rae et al. 2020): it
        compares models of different vocabularies. Where there are no words it is infinite.
        """
        bits = self.nats / math.log(2)
        nats_per_word = self.nats / self.num_words if self.num_words else math.inf
        return {
            "loss": self.nats / self.num_tokens,
            "bits_per_token": bits / self.num_tokens,
            "bits_per_byte": bits / self.num_bytes,
            "word_perplexity": math.exp(nats_per_word) if nats_per_word < 700 else math.inf,
        }


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

        def step(
            params: dict[str, Any], model_state: ModelState, batch: Batch
        ) -> tuple[tuple[Float[Array, " B"], Float[Array, ""]], ModelState]:
            model = nnx.merge(graphdef, layout.gather(params))
            features, model_state = model.features(batch.inputs, model_state, batch.starts)
            nats = summed_loss(model, features, batch.targets, batch.weights)
            return (nats, batch.weights.sum()), layout.split_state(model_state)

        def initial(params: dict[str, Any]) -> ModelState:
            return layout.split_state(nnx.merge(graphdef, params).initial_state(batch_size))

        self.initial = jax.jit(initial)
        self.step = jax.jit(step, donate_argnums=1, out_shardings=(layout.replicated, None))

    def __call__(self, params: dict[str, Any]) -> Score:
        state = self.initial(params)
        scores = []
        rows = self.layout.rows_here(self.lanes.batch_size)
        with prefetch(self.lanes, self.lanes.initial_position(), rows) as batches:
            for batch, _ in batches:
                score, state = self.step(params, state, self.layout.put(batch))
                scores.append(score)
        nats, tokens = (
            float(np.sum(each, dtype=np.float64))
            for each in zip(*jax.device_get(scores), strict=True)
        )
        return Score(nats, int(tokens), self.documents.num_bytes, self.documents.num_words)
