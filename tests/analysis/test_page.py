"""The page of a text: its data, and that it is one file that loads nothing."""

import base64
import gzip
import hashlib
import json
import re

import numpy as np
import pytest

from block_recurrent.analysis.packing import integers, pack, quantise
from block_recurrent.analysis.page import memory_page, text_pieces, token_label
from block_recurrent.analysis.reading import LayerReading, Reading
from block_recurrent.data.vocabularies import ByteVocabulary, OtherVocabulary
from html_pages import charts
from tiny import TINY

BYTES = ByteVocabulary()
NASTY = "</script><b>naïve 雪 🙂</b>\n"


def unpack(packed):
    """The description and the text, and the values of each array."""
    content = gzip.decompress(base64.b64decode(packed))
    place = 4 + int.from_bytes(content[:4], "little")
    header = json.loads(content[4:place])
    text, place = content[place : place + header["text"]].decode(), place + header["text"]
    arrays = {}
    for each in header["arrays"]:
        array = np.frombuffer(content, each["type"], int(np.prod(each["shape"])), place)
        place += array.nbytes
        values = each["scale"] * array.astype(float) ** each["power"]
        arrays[each["name"]] = values.reshape(each["shape"])
    assert place == len(content)
    return header["about"], text, arrays


@pytest.mark.parametrize(("dtype", "power"), [(np.uint8, 1), (np.uint8, 2), (np.uint16, 1)])
def test_quantised_values_are_off_by_half_a_step(dtype, power):
    values = np.random.default_rng(0).random((40, 3)) ** 3 * 7
    _, _, arrays = unpack(pack({"a": quantise(values, dtype, power)}, "", {}))
    step = values.max() ** (1 / power) / np.iinfo(dtype).max
    error = np.abs(arrays["a"] ** (1 / power) - values ** (1 / power))
    assert error.max() <= step * 0.5001 and arrays["a"].max() == pytest.approx(values.max())


@pytest.mark.parametrize("values", [np.zeros((2, 3)), np.array([np.nan, np.inf, 0]), np.zeros(0)])
def test_nothing_to_scale_by(values):
    _, _, arrays = unpack(pack({"a": quantise(values)}, "x", {}))
    assert arrays["a"].shape == values.shape and not arrays["a"].any()


def test_integers_are_exact():
    values = {"small": [0, 255], "more": [7, 65_535], "most": [[1], [100_000]]}
    packed = pack(
        {name: integers(np.array(each)) for name, each in values.items()}, NASTY, {"a": 1}
    )
    about, text, arrays = unpack(packed)
    assert (about, text) == ({"a": 1}, NASTY)
    assert {name: each.tolist() for name, each in arrays.items()} == values


def test_every_character_belongs_to_the_token_that_completes_it():
    tokens = BYTES.encode("é\n雪".encode() + b"\xe9")
    assert text_pieces(tokens, BYTES) == ["", "é", "\n", "", "", "雪", "\ufffd"]
    assert text_pieces(np.array([3, 12]), OtherVocabulary(20, 1)) == ["3 ", "12 "]


def test_labels_of_tokens():
    labels = [token_label(token, BYTES) for token in (ord("a") + 3, 0xC3 + 3, 1, 0)]
    assert labels == ["a", "0xC3", "end of document", "special token 0"]
    assert token_label(7, OtherVocabulary(20, 1)) == "#7"


def made_up_reading(tokens):
    rng, length, blocks = np.random.default_rng(1), len(tokens), -(-len(tokens) // 8)
    layer = LayerReading(
        rng.integers(0, 6, (length, 6)), rng.random((length, 6)), *rng.random((3, blocks, 6))
    )
    bits = {"carried": 9 * rng.random(length), "cleared": 9 * rng.random(length)}
    predicted = rng.integers(0, 260, (length, 5))
    return Reading(tokens.astype(np.int32), bits, predicted, rng.random((length, 5)), {1: layer})


def test_the_page_is_one_file_that_loads_nothing():
    tokens = BYTES.encode(NASTY.encode())
    reading = made_up_reading(tokens)
    page = memory_page("<a> & b", "run, step 4", TINY, BYTES, reading)
    assert page.count("&lt;a&gt; &amp; b</") == 2 and "<a>" not in page and "naïve" not in page
    assert charts(page) == []
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert f'content="{policy}"' in page
    (data,) = re.findall(r'id="data">([^<]*)<', page)
    about, text, arrays = unpack(data)
    assert text == NASTY and about["labels"][str(tokens[0])] == "<"
    assert arrays["lengths"].sum() == len(NASTY.encode("utf-16-le")) // 2
    np.testing.assert_allclose(arrays["cleared"], reading.bits["cleared"], atol=9 / 65535)
    np.testing.assert_array_equal(arrays["states_1"], reading.layers[1].states)
