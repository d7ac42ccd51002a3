"""Why a state forgets: scores a model on the task for memory with its gate changed over filler.

    python benchmarks/recall_interventions.py --workdir=runs/recall/fixed_skip/0 --json=FILE

The facts are in the first block of a document. In all blocks after it, a changed gate does not let
the state decay, x + y·take, or does not write into it, x·keep. The model has a single recurrent
layer, with the fixed gate in the skip configuration.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from block_recurrent.config.device_options import MeshConfig
from block_recurrent.console.cli import run_main
from block_recurrent.data.corpora import load_documents
from block_recurrent.evaluation.evaluator import Evaluator, evaluation_shape
from block_recurrent.evaluation.loss_profile import distance_table
from block_recurrent.model.recurrent_cell import RecurrentCell
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training.workdir import load_run
from block_recurrent.types import KV


class ChangedCell(nnx.Module):
    """A cell in the skip configuration, whose gate is changed after a document's first block.

    Args:
      cell: the cell as it was trained.
      change: 'no_decay' or 'no_writes'.
    """

    def __init__(self, cell: RecurrentCell, change: str):
        self.cell, self.change = cell, change

    def initial_state(self, batch_size: int) -> Float[Array, "B S D"]:
        return self.cell.initial_state(batch_size)

    def restart(
        self, state: Float[Array, "B S D"], starts: Bool[Array, " B"]
    ) -> tuple[Float[Array, "B S D"], Bool[Array, " B"]]:
        """The state that enters the block, and whether the block is the first."""
        return self.cell.restart(state, starts), starts

    def __call__(
        self, carried: tuple[Float[Array, "B S D"], Bool[Array, " B"]], tokens: KV
    ) -> tuple[Float[Array, "B S D"], KV]:
        state, first = carried
        first = first[:, None, None]
        states, attended = self.cell.attend(self.cell.with_ids(state), tokens)
        keep, take = self.cell.output_gate.multipliers(attended)
        if self.change == "no_decay":
            keep = jnp.where(first, keep, 1)
        else:
            take = jnp.where(first, take, 0)
        return state * keep + self.cell.output(attended) * take, states


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--split", default="far")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    result = {}
    for change in ("no_decay", "no_writes"):
        config, model, _ = load_run(arguments.workdir)
        [index] = config.model.recurrent_indices
        cell = model.layers[index].cell
        result["keep"] = sorted(jax.nn.sigmoid(cell.output_gate.bias[...]).tolist())
        model.layers[index].cell = ChangedCell(cell, change)
        documents = load_documents(config.data)[arguments.split]
        shape = evaluation_shape(
            documents, config.model, config.train.batch_size, config.train.segment_length
        )
        layout = Layout(make_mesh(MeshConfig(), config.model, shape[0], jax.devices()[:1]))
        graphdef, params = nnx.split(model)
        window = config.model.window_length
        score = Evaluator(graphdef, documents, window, *shape, layout)(nnx.to_pure_dict(params))
        print(f"{change:<20}accuracy {score.metrics()['accuracy']:.4f}")
        result[change] = distance_table({"carried": score.profile})
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_main(main)
