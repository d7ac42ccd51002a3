"""What benchmarks/table1_cost.py counts: against a line of arithmetic, and docs/reproduce.md."""

import re
import sys
from pathlib import Path

import pytest

from block_recurrent.config.gin_files import shipped_gin_files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from table1_cost import CHIPS, Row, count_row, measured_speed, table  # noqa: E402

pytestmark = pytest.mark.repository
PAGE = (ROOT / "docs/reproduce.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def slide_12l() -> Row:
    return count_row("gin/table1/slide_12l.gin")


def test_matrix_products_of_a_sliding_window_model(slide_12l):
    """FLOPs per token: 6 per parameter, 8 per embedding entry (logits twice), and the attention."""
    layers, d, ffn, window, vocabulary = 12, 1024, 4096, 512, 32_128
    parameters = layers * (4 * d * d + 2 * d * ffn)
    attention = 3 * layers * 2 * 2 * (2 * window) * d
    expected = 6 * parameters + 8 * vocabulary * d + attention
    assert slide_12l.flops / slide_12l.tokens == pytest.approx(expected, rel=1e-3)
    assert (slide_12l.tokens, slide_12l.steps) == (131_072, 500_000)


def test_a_measured_row_costs_its_time(slide_12l):
    [speed] = measured_speed("slide_12l=200000", 8, [slide_12l]).values()
    seconds = slide_12l.steps * slide_12l.tokens / 200_000
    assert slide_12l.chip_hours(speed) == pytest.approx(8 * seconds / 3600)


def test_the_page_has_what_is_counted(slide_12l):
    speeds = {f"{chip.name}, hours at 40%": 0.4 * chip.flops for chip in CHIPS}
    for line in table([slide_12l], speeds).splitlines():
        assert line in PAGE


def test_the_page_has_every_row():
    rows = sorted(Path(name).stem for name in shipped_gin_files() if name.startswith("gin/table1/"))
    assert sorted(re.findall(r"--workdir=gs://BUCKET/table1/(\w+)", PAGE)) == rows
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == rows
