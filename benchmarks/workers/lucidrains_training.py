"""Worker: trains block-recurrent-transformer-pytorch, as the train.py of its repository does.

That is: random crops of all text; Adam; clipped gradients; the memory carried from segment to
segment of a crop, and at times dropped.
"""

import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from block_recurrent_transformer_pytorch import BlockRecurrentTransformer, RecurrentTrainerWrapper
from lucidrains import build, device_peak
from quality import CLOCKS, Slices, measures
from serve import arguments, serve

DROPOUT = {"xl_memories_dropout": 0.1, "state_dropout": 0.1}
MAX_GRADIENT = 0.5


def num_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def fit(spec: dict) -> BlockRecurrentTransformer:
    """Their model with the width of the FFN that brings it nearest to spec["parameters"]."""
    m = spec["model"]
    # Three matrices of D × ⅔ F in each layer, where F is the width of an ungated FFN.
    per_width = 2 * m["num_layers"] * m["embedding_size"]
    lacking = spec["parameters"] - num_parameters(build(spec))
    return build(spec | {"model": m | {"mlp_dim": m["mlp_dim"] + round(lacking / per_width)}})


def make_score(model: BlockRecurrentTransformer, device: torch.device):
    """Returns a `quality.Score`."""

    @torch.no_grad()
    def score(inputs, targets, state):
        model.eval()
        inputs, targets = (torch.from_numpy(x).long().to(device) for x in (inputs, targets))
        memories, states = state or ([], [])
        logits, *state = model(inputs, xl_memories=memories, states=states)
        nats = torch.nn.functional.cross_entropy(logits.mT, targets, reduction="none")
        return nats.cpu().numpy(), state

    return score


def main() -> None:
    spec = arguments()
    torch.set_num_threads(spec["threads"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = fit(spec).to(device)
    wrapper = RecurrentTrainerWrapper(model, **DROPOUT)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec["learning_rate"])
    files = sorted(Path(spec["corpus"], "train").iterdir())
    text = torch.from_numpy(np.concatenate([np.fromfile(file, np.uint8) for file in files]))
    length = spec["crop_length"]

    def crops():
        starts = torch.randint(len(text) - length, (spec["batch_size"],)).tolist()
        return torch.stack([text[start : start + length + 1] for start in starts]).long().to(device)

    def update():
        wrapper.train()
        wrapper(crops()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    scoring = {
        "score": make_score(model, device),
        "rows": spec["rows"],
        "chunk": spec["segment_length"],
        "first": [],
        "shift": 0,
    }
    serve(
        measures(spec, Slices(update, spec["slice"], CLOCKS[spec["clock"]]), **scoring),
        lambda: device_peak(device),
        warm_up=False,
        parameters=num_parameters(model),
        setup_seconds=time.process_time(),
        tokens_per_step=spec["batch_size"] * length,
        versions={name: version(name) for name in ("torch", "block-recurrent-transformer-pytorch")},
    )


if __name__ == "__main__":
    main()
