"""The page of a text in a real browser, without a display."""

import re

import numpy as np
import pytest

from block_recurrent.analysis.packing import pack
from block_recurrent.analysis.page import memory_page, pack_layer
from block_recurrent.analysis.reading import Reader
from block_recurrent.data.vocabularies import ByteVocabulary
from browsers import launched, needs_browser, opened
from tiny import TINY, variant_model

pytestmark = needs_browser
W = TINY.window_length
LINES = [f"{index}: the naïve state of 雪 is carried <b>on</b>\n" for index in range(60)]
TEXT = "".join(LINES)
VARIANT = "two_recurrent_layers"


@pytest.fixture(scope="module")
def reading():
    tokens = ByteVocabulary().encode(TEXT.encode())
    return Reader(variant_model(VARIANT))(tokens, tokens[::-1][: 5 * W])


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(reading, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "page.html"
    config = variant_model(VARIANT).config
    path.write_text(memory_page("The <page>", "tiny", config, ByteVocabulary(), reading), "utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    """The page, in which nothing may go wrong and which may ask for nothing."""
    with opened(browser, address) as (page, requests):
        page.wait_for_selector("[data-ready]")
        yield page
    assert requests == [address]


def at(token):
    return f'#lines [data-token="{token}"]'


def token_of(text):
    """The token of the first byte of the first occurrence."""
    return len(TEXT[: TEXT.index(text)].encode())


def rows(page, heading):
    """The cells of the table below a heading."""
    table = page.locator(f'#token h3:has-text("{heading}") + table')
    return [row.locator("td").all_inner_texts() for row in table.locator("tr").all()]


def test_a_token_under_the_pointer(page, reading):
    token = token_of("state of")
    page.hover(at(token))
    assert page.inner_text("#token h2") == "s"
    assert f"token {token + 1} of {len(reading.tokens):,}," in page.inner_text("#token p >> nth=0")
    _, *losses = rows(page, "Loss")
    found = [float(cells[1]) for cells in losses]
    expected = [bits[token] for bits in reading.bits.values()]
    np.testing.assert_allclose(found, expected, atol=6e-4)
    saved = [float(cells[3].replace("−", "-")) for cells in losses[1:]]
    np.testing.assert_allclose(saved, np.array(expected[1:]) - expected[0], atol=1.1e-3)
    predicted = rows(page, "Predicted")
    shares = [float(cells[-1].rstrip("%")) / 100 for cells in predicted[:5]]
    np.testing.assert_allclose(shares, reading.probabilities[token], atol=0.006)
    assert [cells[0] for cells in predicted if "✓" in cells[0]] == ["s ✓"]
    page.hover(at(token + 1))
    assert page.inner_text("#token h2") == "t", "nothing is held yet"


def test_the_states_that_a_token_reads_and_when_they_were_written(page, reading):
    token, layer = token_of("12: the"), reading.layers[0]
    packed = pack_layer(layer)["change"]
    page.click(at(token))
    block, states = token // W, layer.states[token]
    items = page.locator("#token li").all()
    for state, item in zip(states, items, strict=True):
        change = packed.scale * packed.array[:, state].astype(float) ** packed.power
        strong = np.flatnonzero(change[:block] >= np.quantile(change, 0.9, method="lower"))
        text = item.inner_text()
        assert text.startswith(f"state {state}\n")
        if not len(strong):
            assert "no strong write before this block" in text
            continue
        last = strong[-1]
        kept = float(np.prod(layer.keep[last + 1 : block, state]))
        words = f"block {last + 1}, {token - last * W} tokens back · change {change[last]:.2f} · "
        assert words in text
        share = float(re.search(r"([\d.]+)% kept since", text)[1]) / 100
        assert share == pytest.approx(kept, abs=0.006)
    first = page.locator("#token button").first
    goal = int(re.match(r"block (\d+)", first.inner_text())[1])
    first.click()
    assert page.inner_text("#token p >> nth=0").startswith(f"token {(goal - 1) * W + 1} of ")
    page.select_option("#layer", "2")
    assert "layer 2" in page.inner_text("#token")


def test_shades_and_their_scale(page, reading):
    shade = re.compile(r"\b[spm]\d+")
    token = token_of("state")
    assert shade.search(page.get_attribute(at(token), "class"))[0].startswith("s")
    assert page.inner_text("#text-scale").split("\n")[0] == "0"
    page.check("text=Saved by memory")
    saved = reading.bits["cleared"] - reading.bits["carried"]
    for each in range(token, token + 5):
        found = shade.search(page.get_attribute(at(each), "class") or "")
        assert not found or found[0][0] == ("p" if saved[each] > 0 else "m")
    assert page.inner_text("#text-scale").endswith("bits saved")
    units = {"Change": "of its norm", "Gate": "state kept, everywhere", "Attention": "attention"}
    for quantity, unit in units.items():
        page.check(f"text={quantity}")
        assert page.inner_text("#map-scale").endswith(unit)


def test_a_byte_order_mark_is_part_of_the_text(page):
    """Without it, every later token would be shown one letter off."""
    packed = pack({}, "\ufeffnaïve", {})
    text = page.evaluate("(packed) => unpack(packed).then(({ text }) => text)", packed)
    assert text == "\ufeffnaïve"


def test_search(page):
    page.fill("#query", "NAÏVE")
    assert page.inner_text("#hits") == "60 found" and page.locator(".found").count() > 5
    page.press("#query", "Enter")
    page.press("#query", "Enter")
    assert page.inner_text("#hits") == "2 of 60"
    second = len((LINES[0] + LINES[1].partition("naïve")[0]).encode())
    assert int(page.get_attribute(".chosen", "data-token")) == second
    page.click("#previous"), page.click("#previous")
    assert page.inner_text("#hits") == "60 of 60"
    assert page.locator("#lines .line").count() < 40, "only the lines in view are in the page"
    page.fill("#query", "(no such)[")
    assert page.inner_text("#hits") == "0 found"


def test_keyboard_and_names(page):
    page.focus("#text")
    last = len(TEXT.encode())
    for key, token in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("End", last),
        ("ArrowLeft", last - 1),
    ):
        page.keyboard.press(key)
        assert page.inner_text("#token p >> nth=0").startswith(f"token {token:,} of ")
    assert "bits, memory saves" in page.inner_text("#spoken")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#token h2") == "1"
    page.keyboard.press("Escape")
    assert page.locator(".chosen").count() == 0
    page.focus("#map")
    for key in ("ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert page.inner_text("#spoken").startswith("block 3, tokens 17 – 24, state 1: ")
    page.keyboard.press("Enter")
    assert page.inner_text("#token p >> nth=0").startswith("token 17 of ")
    unnamed = page.evaluate(
        """[...document.querySelectorAll("button, input, select, [tabindex]")].filter((each) =>
        !(each.ariaLabel || each.labels?.length || each.textContent.trim())).map((one) => one.id)"""
    )
    assert unnamed == []


def test_the_map_leads_to_the_text_and_the_chart_zooms(page):
    box = page.locator("#map").bounding_box()
    page.mouse.click(int(box["x"] + box["width"]) - 1, int(box["y"]) + 5)
    last = page.inner_text("#token p >> nth=0")
    assert last.endswith(f"block {-(-len(TEXT.encode()) // W)}")
    page.mouse.move(box["x"] + 100, box["y"] - 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] - 60, steps=3)
    page.mouse.up()
    page.wait_for_selector("#whole:enabled")
    page.mouse.move(box["x"] + 1, box["y"] + 5)
    shown = int(re.match(r"block (\d+)", page.inner_text("#readout"))[1])
    blocks = len(TEXT.encode()) / W
    assert shown == pytest.approx(blocks * 100 / box["width"], abs=2)
    page.click("#whole")
    page.mouse.move(box["x"] + 1, box["y"] + 5)
    assert page.inner_text("#readout").startswith("block 1,")


def luminance(color):
    """Relative, as in the guidelines for accessible web content."""
    parts = np.array(re.findall(r"[\d.]+", color)[:3], float)
    parts = parts / 255 if "color(" not in color else parts
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


STRONGEST = """(name) => {
  const probe = document.body.appendChild(document.createElement("p"));
  probe.style.backgroundColor = `color-mix(in srgb, var(${name}) 80%, var(--paper))`;
  const { backgroundColor, color } = getComputedStyle(probe);
  probe.remove();
  return [backgroundColor, color];
}"""


def test_light_and_dark(page):
    """Text can be read on every shade, in both themes."""
    for theme, label in (("light", "Dark"), ("dark", "Light"), ("light", "Dark")):
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert page.inner_text("#theme") == label
        for name in ("--loss", "--saved", "--cost", "--paper", "--mark"):
            assert contrast(*page.evaluate(STRONGEST, name)) > 4.5, (theme, name)
        page.click("#theme")
