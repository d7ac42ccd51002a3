"""Worker: trains the block_recurrent in the same checkout, as its train command does."""

import time

import jax
import numpy as np
from flax import nnx
from jax_step import device_peak, num_parameters
from quality import CLOCKS, Slices, measures
from serve import arguments, serve

from block_recurrent.config.run_config import load
from block_recurrent.data.prefetch import prefetch
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.model.losses import token_scores
from block_recurrent.training.setup import Setup

BEGIN = 0  # the input at the start of a document


def make_score(graphdef: nnx.GraphDef, params):
    """Returns a `quality.Score` with the parameters that `params()` returns."""

    @jax.jit
    def compiled(params, inputs, targets, state):
        model = nnx.merge(graphdef, params)
        features, state = model.features(inputs, state)
        return token_scores(model, features, targets).nats, state

    def score(inputs, targets, state):
        nats, state = compiled(params(), inputs, targets, state)
        return np.asarray(nats), state

    return score


def main() -> None:
    spec = arguments()
    setup = Setup(load(spec["gin_files"], spec["bindings"]))
    step, state = setup.compile_step(), setup.initial_state()
    lanes, train = setup.lanes, setup.config.train
    position = lanes.initial_position() if lanes.turns == 1 else lanes.staggered_position()
    with prefetch(lanes, position, put=setup.layout.put) as batches:

        def update():
            nonlocal state
            batch, _ = next(batches)
            state, _ = jax.block_until_ready(step(state, batch))

        slices = Slices(update, spec["slice"], CLOCKS[spec["clock"]], train.num_steps)
        scoring = {
            "score": make_score(setup.graphdef, lambda: state.params),
            "rows": spec["rows"],
            "chunk": 4 * train.segment_length,
            "first": [BEGIN],
            "shift": int(ByteVocabulary().encode(b"\0")[0]),
        }
        serve(
            measures(spec, slices, **scoring),
            device_peak,
            warm_up=False,
            parameters=num_parameters(state.params),
            setup_seconds=time.process_time(),
            tokens_per_step=train.batch_size * train.segment_length,
        )


if __name__ == "__main__":
    keep_freed_memory()  # as the commands do
    main()
