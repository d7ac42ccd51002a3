"""The page at `/` in a real browser, without a display."""

import re

import pytest

from block_recurrent import Sampling
from block_recurrent.analysis.reading import Reader
from block_recurrent.data.vocabularies import ByteVocabulary
from browsers import launched, needs_browser, opened
from loopback import running
from tiny import variant_model

pytestmark = needs_browser
END = ByteVocabulary.end_id
TOKEN = "a-token-of-16-letters"
TEXT = "".join(f"{index}: the naïve state of 雪 is carried <b>on</b>\n" for index in range(40))
WRITING = {"max_tokens": 40, "temperature": 0.5, "top_p": 0.9, "seed": 3}
ENDLESS = "def main("  # at temperature 0


@pytest.fixture(scope="module")
def server(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    with running(generator, folder, rows=2, token=TOKEN) as server:
        yield server


def encode(text):
    return ByteVocabulary().encode(text.encode())


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """The page, in which nothing may go wrong, and which may only ask its server."""
    with opened(browser, f"{server.address}/") as (page, requests):
        page.fill("#key", TOKEN)
        yield page
    assert {each.removeprefix(server.address) for each in requests} <= {"/", "/v1/readings"}


def run(page, button, until="#read:enabled"):
    page.click(button)
    page.wait_for_selector(until)


def shown(page):
    return page.evaluate("Array.from(live.data.arrays.tokens.q)")


def test_read_go_on_and_another_text(page, server, generator):
    page.fill("#given", TEXT)
    run(page, "#read")
    tokens = encode(TEXT)
    assert page.inner_text("#status") == f"{len(tokens):,} of {len(tokens):,} tokens read"
    assert shown(page) == tokens.tolist() and page.evaluate("live.data.text") == TEXT
    page.wait_for_selector(f'#lines [data-token="{len(tokens) - 2}"]')  # the end is in view
    page.hover(f'#lines [data-token="{len(tokens) - 2}"]')
    assert page.inner_text("#token p >> nth=0").startswith(f"token {len(tokens) - 1:,} of ")
    bits = float(page.inner_text("#token table tr:nth-child(2) td:nth-child(2)"))
    expected = Reader(variant_model("fixed_skip"))(tokens).bits["carried"][-2]
    assert bits == pytest.approx(expected, abs=1e-3)
    for name, value in WRITING.items():
        page.fill(f"#{name}", str(value))
    run(page, "#go-on")
    sampling = Sampling(temperature=WRITING["temperature"], top_p=WRITING["top_p"])
    (written,) = generator.generate(
        [tokens], 40, seed=WRITING["seed"], sampling=sampling, stop_tokens=[END]
    )
    written = [token for token in written.tolist() if token != END]
    assert shown(page) == [*tokens.tolist(), *written]
    assert re.search(r"\b[spm]\d+", page.get_attribute(f'[data-token="{len(tokens)}"]', "class"))
    page.evaluate("live.page.overview.zoom(10, 20)")
    page.click("#source summary")
    file = {"name": "another.txt", "mimeType": "text/plain", "buffer": b"another"}
    page.set_input_files("#file", file)
    for _ in range(250):  # the file is read meanwhile
        if page.input_value("#given") == "another":
            break
        page.wait_for_timeout(20)
    run(page, "#go-on")
    assert shown(page)[:7] == encode("another").tolist() and len(shown(page)) <= 47
    assert page.inner_text("#facts").startswith("tiny")
    assert page.is_disabled("#whole"), "all of another text is shown"
    assert "No token is chosen" in page.inner_text("#token")


def test_stop_and_go_on_from_there(page):
    page.fill("#given", ENDLESS)
    page.fill("#max_tokens", "60000")
    page.fill("#temperature", "0")
    run(page, "#go-on", "#facts:not(:empty)")
    page.click("#source summary")
    count = len(shown(page))
    page.wait_for_selector(f'#lines [data-token="{count + 50}"]', state="attached")
    assert page.is_visible("#given"), "the text box stays open while more comes"
    run(page, "#stop")
    assert page.inner_text("#status") == "stopped"
    count = len(shown(page))
    page.fill("#max_tokens", "10")
    run(page, "#go-on")
    assert count < len(shown(page)) <= count + 10
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_errors_are_one_line_in_the_page(browser, server):
    page = browser.new_page()
    page.goto(f"{server.address}/")
    for key, text, message in (
        ("wrong", "a", "the API key is missing or wrong"),
        (TOKEN, "", "there is no text to read"),
    ):
        page.fill("#key", key)
        page.fill("#given", text)
        run(page, "#read")
        assert message in page.inner_text("#status.failed")
        assert page.is_hidden("#map")
    assert page.evaluate("Object.values(localStorage)") == []
    page.close()
