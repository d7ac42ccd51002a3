"""Adds to pyproject.toml that gin/ is installed inside the package, as block_recurrent/gin."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["block_recurrent", "block_recurrent.*"]),
        "block_recurrent.gin",
    ],
    package_dir={"block_recurrent.gin": "gin"},
)
