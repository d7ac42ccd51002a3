"""docs/baseline.md says what gin files, gates and the citation say; its tables are generated."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx

from block_recurrent.config.run_config import load
from block_recurrent.model.gates import GATES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/baseline.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.repository


@pytest.mark.parametrize("name", ["fixed", "gru", "lstm"])
def test_gates_start_where_the_page_says(name):
    row = re.search(rf"^\| `{name}` \|.* \| (\S+) \| (\S+) \|$", PAGE, re.MULTILINE)
    gate = GATES[name](512, 512, rngs=nnx.Rngs(0))
    u = np.random.default_rng(0).standard_normal((1, 8, 512))
    found = [float(values.mean()) for values in gate.multipliers(jnp.asarray(u, jnp.float32))]
    assert found == pytest.approx([float(value) for value in row.groups()], abs=0.01)


@pytest.mark.parametrize(
    "row, file",
    [
        ("XL:512", "xl_512"),
        ("XL:2048", "xl_2048"),
        ("Slide:13L", "slide_13l"),
        ("Rec:fixed:skip", "rec_fixed_skip"),
    ],
)
def test_reported_numbers_are_those_of_the_gin_files(row, file):
    [cells] = re.findall(rf"^\| {row} \| (.+) \|$", PAGE, re.MULTILINE)
    time, *bits = cells.split(" | ")
    comment = (ROOT / f"gin/table1/{file}.gin").read_text(encoding="utf-8")
    assert set(bits) <= set(re.findall(r"\d\.\d+", comment))
    assert row == "Slide:13L" or f"takes {time} times as long" in comment.replace("\n# ", " ")


def test_every_run_reads_as_many_tokens_per_step():
    for name in ("rec_fixed_skip", "feedback_fixed_skip", "slide_13l", "xl_512", "xl_2048"):
        train = load([f"gin/table1/{name}.gin"], []).train
        assert f"A step reads {train.batch_size * train.segment_length:,} tokens" in PAGE


def test_the_paper_is_cited_as_in_the_citation_file():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    authors = [f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]]
    fields = [paper["title"], paper["collection-title"], str(paper["year"]), paper["url"]]
    for text in (" and ".join(authors), *fields):
        assert f"{{{text}}}" in PAGE
