"""Worker: block-recurrent-transformer-pytorch, as installed in this Python."""

import contextlib

import torch
from block_recurrent_transformer_pytorch import BlockRecurrentTransformer
from serve import arguments, serve


def build(spec: dict) -> BlockRecurrentTransformer:
    """Their model, with sizes given as ModelConfig fields."""
    m = spec["model"]
    torch.manual_seed(spec.get("seed", 0))
    return BlockRecurrentTransformer(
        num_tokens=m["vocab_size"],
        dim=m["embedding_size"],
        depth=m["num_layers"],
        dim_head=m["head_size"],
        heads=m["num_heads"],
        ff_mult=m["mlp_dim"] / m["embedding_size"],
        max_seq_len=spec["segment_length"],
        block_width=m["window_length"],
        recurrent_layers=tuple(i % m["num_layers"] + 1 for i in m["recurrent_layers"]),
        num_state_vectors=m["num_states"],
        use_flash_attn=spec["flash"],
    )


def device_peak(device: torch.device) -> int | None:
    """Peak bytes on a GPU; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def main() -> None:
    spec = arguments()
    m, length = spec["model"], spec["segment_length"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(spec).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(0, m["vocab_size"], (spec["batch_size"], length + 1), device=device)
    network = torch.compile(model) if spec["compile"] else model
    carried = [[], []]

    def loss_of_segment():
        low = m["dtype"] == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if low else contextlib.nullcontext():
            loss, *carried[:] = network(
                tokens, return_loss=True, xl_memories=carried[0], states=carried[1]
            )
        return loss

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def train():
        optimizer.zero_grad(set_to_none=True)
        loss_of_segment().backward()
        optimizer.step()
        wait()

    def forward():
        with torch.no_grad():
            loss_of_segment()
        wait()

    train()  # torch.compile compiles a first segment, without memory, and a later one
    parameters = sum(p.numel() for p in model.parameters())
    measures = {"train": train, "forward": forward}
    serve(measures, lambda: device_peak(device), parameters=parameters)


if __name__ == "__main__":
    main()
