"""What the training step does on an H100, read from its compiled program. Needs no GPU.

    pip install -e '.[cuda12]'
    python benchmarks/gpu_program.py
    python benchmarks/gpu_program.py --model='{"num_layers": 2, "recurrent_layers": []}' --top=20
    PYTHONPATH=../older_checkout python benchmarks/gpu_program.py

Compiles the step for an H100, which XLA can do on any machine that has JAX's CUDA packages. Adds up
the bytes that kernels read and write and the number of their launches, by part of the model and
kind of kernel. Kernels in a loop count once per iteration. XLA chooses no kernels by measurement
here, so the program that a GPU runs may differ in its matrix products.
"""

import argparse
import json
import os
from collections import defaultdict
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
# One kernel per instruction; and cuBLAS, as in the measurements of docs/speed.md.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_gpu_enable_command_buffer= --xla_gpu_enable_triton_gemm=false",
    ]
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from gpu_parts import FULL  # noqa: E402
from hlo import PARTS, Kernel, kernels, part_of  # noqa: E402
from jax.experimental.topologies import get_topology_desc  # noqa: E402
from report import table, write  # noqa: E402
from step_time import MODEL  # noqa: E402

from block_recurrent import ModelConfig  # noqa: E402
from block_recurrent.config.device_options import MeshConfig  # noqa: E402
from block_recurrent.data.lanes import Batch  # noqa: E402
from block_recurrent.model.transformer import abstract_model  # noqa: E402
from block_recurrent.parallel.sharding import Layout, make_mesh  # noqa: E402
from block_recurrent.training import train_step  # noqa: E402

H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  device_memory_size: 84929347584  memory_bandwidth: 3352320000000  l2_cache_size: 52428800
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 9 }
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# The model of docs/speed.md.
LARGE = FULL.model | {"attention_kernel": "pallas", "dtype": FULL.dtype}


class OneGPU:
    """What the choice of kernels asks of the first device."""

    compute_capability = "9.0"


def compiled_step(fields: dict, batch_size: int, length: int):
    """The training step, compiled for an H100."""
    jax.local_devices()  # finds the packages for CUDA
    topology = get_topology_desc("h100", "cuda", target_config=H100, topology="1x1x1")
    with (
        mock.patch.object(jax, "default_backend", lambda: "gpu"),
        mock.patch.object(jax, "devices", lambda *_: [OneGPU()]),
        mock.patch.object(jax, "device_count", lambda *_: 1),
    ):
        config = ModelConfig(**fields)
        graphdef, _ = abstract_model(config)
        layout = Layout(make_mesh(MeshConfig(), config, batch_size, topology.devices))
        optimizer = optax.adamw(1e-3)
        init = train_step.init_function(config, optimizer, batch_size, seed=0)
        state = jax.eval_shape(init)
        shardings = train_step.state_shardings(layout, state)

        def of(leaf, sharding):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        tokens = jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
        weights = jax.ShapeDtypeStruct(tokens.shape, jnp.float32)
        starts = jax.ShapeDtypeStruct((batch_size, length // config.window_length), bool)
        batch = Batch(inputs=tokens, targets=tokens, weights=weights, starts=starts)
        step = train_step.make_train_step(graphdef, optimizer, 10, layout)
        results = (shardings, layout.replicated)
        lowered = jax.jit(step, donate_argnums=0, out_shardings=results).lower(
            jax.tree.map(of, state, shardings),
            jax.tree.map(lambda leaf: of(leaf, layout.replicated), batch),
        )
        return lowered.compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of ModelConfig fields")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--segment_length", type=int, default=4096)
    parser.add_argument("--top", type=int, default=10, help="kernels to list")
    parser.add_argument("--hlo", help="where to write the program")
    parser.add_argument("--json", help="where to write the result")
    args = parser.parse_args()
    step = compiled_step(MODEL | LARGE | args.model, args.batch_size, args.segment_length)
    if args.hlo:
        with open(args.hlo, "w", encoding="utf-8") as file:
            file.write(step.as_text())
    found = kernels(step.as_text())
    gib, runs = defaultdict(float), defaultdict(int)
    for kernel in found:
        for part in (part_of(kernel.source), "all"):
            gib[part, kernel.kind] += kernel.runs * kernel.bytes / 2**30
            runs[part, kernel.kind] += kernel.runs
    rows = [
        {"part": part, "kind": kind, "GiB": gib[part, kind], "launches": runs[part, kind]}
        for part in (*PARTS, "rest", "all")
        for kind in sorted({kernel.kind for kernel in found}, key=lambda kind: -gib[part, kind])
        if runs[part, kind]
    ]
    temporary = step.memory_analysis().temp_size_in_bytes / 2**30
    print(f"temporary memory {temporary:.2f} GiB; kernels move {sum_of(found):.1f} GiB")
    print(table(rows))
    longest = sorted(found, key=lambda kernel: -kernel.runs * kernel.bytes)[: args.top]
    print(table([kernel._asdict() | {"source": kernel.source[-60:]} for kernel in longest]))
    write("gpu_program", rows, args.json, temporary_gib=temporary, total_gib=sum_of(found))


def sum_of(found: list[Kernel]) -> float:
    """GiB that all kernels read and write."""
    return sum(kernel.runs * kernel.bytes for kernel in found) / 2**30


if __name__ == "__main__":
    main()
