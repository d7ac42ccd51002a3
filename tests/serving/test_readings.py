"""Readings: what the page at `/` asks a server for."""

import dataclasses
import json
import time

import httpx
import numpy as np
import pytest

from block_recurrent import Generator
from block_recurrent.analysis.reading import Reader
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.serving.limits import Limits
from block_recurrent.serving.prefix_cache import PrefixCache
from block_recurrent.serving.text_reading import TextReading
from loopback import running
from tiny import TINY, variant_model

W = TINY.window_length
LIMITS = Limits(rows=2, max_body=20_000)
TOKEN = "a token of 16 letters".replace(" ", "-")
KEY = {"Authorization": f"Bearer {TOKEN}"}
TEXT = "".join(f"{index}: the naïve state of 雪 is carried <b>on</b>\n" for index in range(40))
WRITING = {"max_tokens": 40, "temperature": 0.5, "top_p": 0.9, "seed": 3}


@pytest.fixture(scope="module")
def server(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    limits = dataclasses.asdict(LIMITS)
    with running(generator, folder, token=TOKEN, **limits) as server:
        yield server


def ask(server, **fields) -> httpx.Response:
    return httpx.post(f"{server.address}/v1/readings", json=fields, headers=KEY, timeout=60)


def encode(text):
    return ByteVocabulary().encode(text.encode()).astype(np.int32)


class Steps:
    """Readings of one model, without a server."""

    def __init__(self):
        self.reader, self.states = Reader(variant_model("fixed_skip")), PrefixCache(1 << 24)

    def read(self, tokens, known=0, parts=()):
        """All parts, of a text that becomes longer: `parts` are appended one after the other."""
        reading, found = TextReading(self.reader, self.states, tokens, known), []
        for new in ([], *parts):
            reading.tokens = np.concatenate([reading.tokens, np.array(new, np.int32)])
            while not reading.finished:
                found.append((reading.num_read, reading.step()))
        reading.remember()
        return found


def joined(parts, name):
    """The values of all tokens: later parts replace what earlier ones had from there on."""
    values = np.zeros(0)
    for part in parts:
        values = np.concatenate([values[: part.first], part.reading.bits[name]])
    return values


def test_a_growing_text_is_read_as_one_that_is_there_at_once():
    steps, tokens = Steps(), encode(TEXT)[: 70 * W + 5]
    begun, rest = tokens[: 50 * W], tokens[50 * W :]
    expected = steps.reader(tokens).bits
    parts = [part for _, part in steps.read(begun, parts=[rest[:3], rest[3:20], rest[20:]])]
    for name, bits in expected.items():
        np.testing.assert_allclose(joined(parts, name), bits, atol=1e-5)
    first, again = steps.read(tokens, known=len(tokens))[0]
    assert (first, again.first) == (70 * W, 70 * W), "it goes on from the state that was kept"
    last = expected["carried"][70 * W :]
    np.testing.assert_allclose(again.reading.bits["carried"], last, atol=1e-5)
    steps.states = PrefixCache(0)
    silent = steps.read(tokens, known=len(tokens))
    assert [part is None for _, part in silent] == [True, True, False], "read again, not sent again"
    np.testing.assert_allclose(silent[-1][1].reading.bits["carried"], last, atol=1e-5)


def test_a_reading_lets_others_have_their_turns(server):
    """A short completion is answered while a long text is being read."""
    url, fields = f"{server.address}/v1/readings", {"prompt": 15_000 * "a"}
    with httpx.stream("POST", url, json=fields, headers=KEY, timeout=60) as answer:
        parts = answer.iter_raw()
        next(parts)
        url, fields = f"{server.address}/v1/completions", {"prompt": "b", "max_tokens": 2}
        assert httpx.post(url, json=fields, headers=KEY, timeout=60).status_code == 200
        assert server.service.slots.taken == 1


def wait_until_idle(server):
    engine = server.service.engine
    for _ in range(500):
        if not (server.service.slots.taken or engine._reading or any(engine._writers)):
            return
        time.sleep(0.02)
    raise AssertionError("work goes on for nobody")


def test_a_client_that_goes_or_takes_too_long_leaves_no_work(server, monkeypatch):
    url = f"{server.address}/v1/readings"
    fields = {"prompt": "def main(", "max_tokens": 50_000, "temperature": 0}  # it never ends
    with httpx.stream("POST", url, json=fields, headers=KEY, timeout=60) as answer:
        next(answer.iter_raw())
    wait_until_idle(server)
    monkeypatch.setattr(server.service, "limits", dataclasses.replace(LIMITS, max_seconds=1))
    last = ask(server, **fields).text.split("\n\n")[-2]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "time_limit"
    wait_until_idle(server)


def test_the_reader_is_compiled_for_the_first_reading_only(server, monkeypatch):
    ask(server, prompt="a")
    blocks, read_block = [], Reader.read_block
    monkeypatch.setattr(
        Reader, "read_block", lambda *rest: blocks.append(rest[3]) or read_block(*rest)
    )
    ask(server, prompt=(3 * W) * "a")
    assert blocks == [0, 1, 2]


def events(answer: httpx.Response) -> list[dict]:
    *found, done = [each.removeprefix("data: ") for each in answer.text.split("\n\n")[:-1]]
    assert answer.status_code == 200 and done == "[DONE]"
    return [json.loads(each) for each in found]


def test_a_reading_comes_in_parts_and_goes_on(server):
    tokens = encode(TEXT)[: 100 * W + 3]
    parts = events(ask(server, prompt=tokens.tolist()))
    assert [each["read"] for each in parts] == [256, 512, 768, 803]
    assert [each["first"] for each in parts] == [0, 256, 512, 768]
    *_, last = parts = events(ask(server, prompt=tokens.tolist(), known=len(tokens), **WRITING))
    assert parts[0]["first"] == 100 * W, "what the client knows is not sent again"
    assert last["end"] in ("stop", "length") and last["read"] == last["tokens"] > len(tokens)


def test_mistakes_have_one_line(server):
    known = {"prompt": "ab", "known": 3}
    for fields, message in (
        ({"prompt": ""}, "there is no text to read"),
        (known, "known = 3: the text has only 2 tokens"),
        ({"prompt": "a", "known": -1}, "known = -1: give the number"),
        ({"prompt": ["a", "b"]}, "2 prompts: a reading has one text"),
        ({"prompt": "a", "n": 2}, "leave out n, echo and logprobs"),
        ({"prompt": "a", "logprobs": 0}, "leave out n, echo and logprobs"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens = 0"),
    ):
        answer = ask(server, **fields)
        assert answer.status_code == 400 and message in answer.json()["error"]["message"]


def test_the_page_needs_no_token_but_readings_do(server):
    answer = httpx.get(f"{server.address}/")
    assert answer.status_code == 200 and 'id="key"' in answer.text
    assert "default-src 'none'" in answer.text and "connect-src 'self'" in answer.text
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert httpx.post(f"{server.address}/v1/readings", json={"prompt": "a"}).status_code == 401
    elsewhere = httpx.get(f"{server.address}/", headers={"Origin": "http://elsewhere"})
    assert elsewhere.status_code == 403


def test_a_model_without_memory_has_no_page(tmp_path):
    with running(Generator(variant_model("sliding_window")), tmp_path, rows=1) as server:
        answer = httpx.get(f"{server.address}/")
        assert answer.status_code == 404 and "no recurrent layers" in answer.text
