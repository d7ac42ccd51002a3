"""Worker: generation with block-recurrent-transformer-pytorch, by its own `generate`."""

import functools

import torch
from block_recurrent_transformer_pytorch import RecurrentTrainerWrapper
from lucidrains import build
from serve import arguments, serve


def main() -> None:
    spec = arguments()
    writer = RecurrentTrainerWrapper(build(spec))

    def after_prompt(length):
        prompt = torch.ones(spec["batch_size"], length, dtype=torch.long)
        # its `length` includes the prompt
        writer.generate(prompt, length + spec["num_tokens"])

    serve({f"prompt {n}": functools.partial(after_prompt, n) for n in spec["prompts"]})


main()
