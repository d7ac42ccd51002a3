"""Worker: generation with block-recurrent-transformer-pytorch, by its own `generate`."""

import contextlib
import functools

import torch
from block_recurrent_transformer_pytorch import RecurrentTrainerWrapper
from lucidrains import build
from serve import arguments, serve


def main() -> None:
    spec = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    writer = RecurrentTrainerWrapper(build(spec)).to(device)

    def after_prompt(length):
        prompt = torch.ones(spec["batch_size"], length, dtype=torch.long, device=device)
        low = spec["model"]["dtype"] == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if low else contextlib.nullcontext():
            # its `length` includes the prompt
            writer.generate(prompt, length + spec["num_tokens"]).cpu()

    serve({f"prompt {n}": functools.partial(after_prompt, n) for n in spec["prompts"]})


main()
