"""Worker: training steps and forward passes of the block_recurrent in the same checkout."""

import jax
from flax import nnx
from jax_step import compiled, device_peak, num_parameters
from our_step import Workload
from serve import arguments, serve

from block_recurrent.freed_memory import keep_freed_memory
from block_recurrent.model import losses


def build(spec: dict):
    """The measures, the compiled step, and facts about it."""
    work = Workload(spec)
    graphdef, state, batch = work.graphdef, work.state, work.batch
    step, facts = work.compile_step()
    facts["parameters"] = num_parameters(state.params)
    holder = [state]

    def train():
        holder[0], sums = step(holder[0], batch)
        jax.block_until_ready((holder[0], sums))

    def forward_loss(params, model_state, batch):
        model = nnx.merge(graphdef, params)
        features, model_state = model.features(batch.inputs, model_state, batch.starts)
        summed = losses.summed_loss(model, features, batch.targets, batch.weights)
        return summed.sum() / batch.weights.sum(), model_state

    def compiled_forward():
        forward, _ = compiled(forward_loss, state.params, state.model, batch)
        return lambda: jax.block_until_ready(forward(holder[0].params, holder[0].model, batch))

    measures = {}
    if facts["temporary_bytes"] <= spec.get("max_temporary_bytes", float("inf")):
        names = spec.get("measures", ["train", "forward"])
        if "train" in names:
            measures["train"] = train
        if "forward" in names:
            measures["forward"] = compiled_forward()
    return measures, step, facts


if __name__ == "__main__":
    keep_freed_memory()  # as the commands do
    measures, _, facts = build(arguments())
    serve(measures, device_peak, **facts)
