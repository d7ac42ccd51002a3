"""The completions API, asked by OpenAI's own client."""

import concurrent.futures
import contextlib
import functools
import json
import re
import time
from pathlib import Path

import httpx
import openai
import pytest

from block_recurrent import Sampling
from block_recurrent.data.vocabularies import ByteVocabulary
from loopback import NAME, running

END = ByteVocabulary.end_id
LONG_SEED = 5  # of a continuation that does not end soon
ENDLESS = {"prompt": "def main(", "max_tokens": 3000, "temperature": 0, "n": 3}
PROMPT = "def main("
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def server(generator, tmp_path_factory):
    limits = {"rows": 3, "max_requests": 8, "max_body": 20_000, "max_prompt_tokens": 5000}
    folder = tmp_path_factory.mktemp("sessions")
    with running(generator, folder, max_tokens=3000, max_seconds=60, **limits) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, prompt=PROMPT, **fields):
    return client.completions.create(model=NAME, prompt=prompt, **fields)


def expected(generator, prompt=PROMPT, num_tokens=16, choices=1, seed=0, **sampling) -> list[str]:
    """The texts of the generator alone."""
    tokens = ByteVocabulary().encode(prompt.encode())
    sampling = Sampling(**sampling) if sampling else None
    rows = generator.generate(
        [tokens] * choices, num_tokens, seed=seed, sampling=sampling, stop_tokens=[END]
    )
    return [ByteVocabulary().decode(row).decode("utf-8", "replace") for row in rows]


def test_models(client):
    (model,) = client.models.list()
    assert model.id == NAME == client.models.retrieve(NAME).id
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


def test_a_completion(client, generator):
    answer = ask(client, seed=5, n=2, temperature=0.5, top_p=0.8, max_tokens=40)
    texts = expected(generator, choices=2, num_tokens=40, seed=5, temperature=0.5, top_p=0.8)
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.model == NAME and answer.object == "text_completion"
    usage = answer.usage
    assert usage.prompt_tokens == len(PROMPT)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    for choice, text in zip(answer.choices, texts, strict=True):
        is_whole = choice.finish_reason == "length"
        assert choice.finish_reason in ("length", "stop") and choice.logprobs is None
        assert not is_whole or len(text) >= 10


def test_the_parts_of_a_stream_join_to_the_answer(client):
    fields = {"seed": 1, "n": 3, "max_tokens": 60, "logprobs": 2, "echo": True}
    whole = ask(client, **fields)
    texts, logprobs, ends = ["", "", ""], [[], [], []], [None] * 3
    for chunk in ask(client, stream=True, stream_options={"include_usage": True}, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += choice.logprobs.token_logprobs
            ends[choice.index] = choice.finish_reason
    assert chunk.usage == whole.usage
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert ends[choice.index] == choice.finish_reason
        assert logprobs[choice.index] == pytest.approx(choice.logprobs.token_logprobs, abs=1e-4)


def test_the_seed_is_drawn_if_it_is_not_given(client):
    assert len({ask(client, max_tokens=30).choices[0].text for _ in range(3)}) > 1


def test_prompts_of_all_kinds(client):
    tokens = ByteVocabulary().encode(PROMPT.encode()).tolist()
    text = ask(client, seed=4).choices[0].text
    for prompt in (tokens, [tokens], [0, *tokens], [PROMPT]):
        assert ask(client, prompt, seed=4).choices[0].text == text
    both = ask(client, [PROMPT, "import "], seed=4, n=2)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    other = ask(client, "import ", seed=4).choices[0].text
    assert both.choices[0].text == text != both.choices[2].text == other
    assert both.usage.prompt_tokens == len(PROMPT) + len("import ")


@pytest.mark.parametrize("stream", [False, True])
def test_stop_texts(client, stream):
    whole = ask(client, seed=LONG_SEED, max_tokens=60).choices[0].text
    assert len(whole) > 30
    stop = whole[20:23]
    place = whole.index(stop)
    answer = ask(client, seed=LONG_SEED, max_tokens=60, stop=["never there", stop], stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].text for chunk in chunks)
        end = chunks[-1].choices[0].finish_reason
    else:
        text, end = answer.choices[0].text, answer.choices[0].finish_reason
        assert answer.usage.completion_tokens < 60
    assert (text, end) == (whole[:place], "stop")


def test_logprobs(client):
    """The most likely token is first, and tokens join to the text."""
    answer = ask(client, temperature=0, logprobs=3, max_tokens=12, echo=True).choices[0]
    found = answer.logprobs
    sizes = {len(each) for each in (found.tokens, found.token_logprobs, found.top_logprobs)}
    assert sizes == {len(found.text_offset)} == {len(PROMPT) + 12}
    for token, logprob, top, offset in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset, strict=True
    ):
        assert logprob < 0 and top[token] == logprob and len(top) in (3, 4)
        if not token.startswith(("bytes:", "token_id:")):
            assert answer.text[offset:].startswith(token)
    for logprob, top in list(zip(found.token_logprobs, found.top_logprobs, strict=True))[-12:]:
        assert logprob == max(top.values()), "the temperature is 0"


def test_scores_only(client):
    """With echo, no new token is needed."""
    answer = ask(client, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == PROMPT and answer.choices[0].finish_reason == "length"
    one = ask(client, max_tokens=1, echo=True, logprobs=1, temperature=0).choices[0]
    assert one.logprobs.token_logprobs[:-1] == answer.choices[0].logprobs.token_logprobs
    started = ask(client, [0, 3 + 97], max_tokens=0, echo=True, logprobs=1).choices[0]
    assert started.logprobs.token_logprobs[0] is None and started.text == "a"
    assert started.logprobs.tokens == ["token_id:0", "a"]
    ended = ask(client, [3 + 97, 3 + 0xE6, END], max_tokens=0, echo=True, logprobs=1).choices[0]
    assert ended.text == "a\ufffd", "it ends inside a character"
    assert ended.logprobs.tokens == ["a", "bytes:\\xe6", f"token_id:{END}"]


def test_a_prompt_is_read_once(client):
    prompt = "x = 1\n" * 300
    first, again = (ask(client, prompt, max_tokens=4, temperature=0) for _ in range(2))
    assert first.choices[0].text == again.choices[0].text
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert len(prompt) - 8 <= again.usage.prompt_tokens_details.cached_tokens < len(prompt)


def test_many_clients_at_once(client, generator):
    """More requests than rows, of different lengths, each with its own tokens."""
    asked = [{"prompt": PROMPT * (1 + i % 3), "seed": i, "max_tokens": 5 + 7 * i} for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda fields: ask(client, **fields), asked))
    for fields, answer in zip(asked, answers, strict=True):
        (text,) = expected(generator, fields["prompt"], fields["max_tokens"], seed=fields["seed"])
        assert answer.choices[0].text == text


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temprature": 1}, "has no field 'temprature': did you mean temperature?"),
        ({"temperature": 3}, "temperature = 3: must be at least 0 and at most 2"),
        ({"temperature": "hot"}, "temperature = 'hot': must be a number"),
        ({"top_p": 0}, "top_p = 0: must be"),
        ({"n": 0}, "n = 0: must be at least 1"),
        ({"max_tokens": 3001}, "max_tokens = 3001: this server writes at most 3,000"),
        ({"max_tokens": 0}, "max_tokens = 0: without echo"),
        ({"logprobs": 6}, "logprobs = 6: must be at least 0 and at most 5"),
        ({"prompt": 7}, "prompt: give text, a list of tokens, or a list of either"),
        ({"prompt": [3, 260]}, "a prompt contains token 260: the model's tokens are 0 to 259"),
        ({"prompt": [[3], "a", 1.5]}, "prompt: give text, a list of tokens, or a list of either"),
        (
            {"prompt": ["a" * 99] * 2, "n": 26, "echo": True},
            "would have up to 5,148 tokens: this",
        ),
        ({"n": 2, "logprobs": 0, "max_tokens": 2501}, "would have up to 5,002 tokens: this"),
        ({"prompt": "a" * 5001}, "the prompt has 5,001 tokens: this server reads at most 5,000"),
        ({"prompt": ["a"] * 65, "n": 2}, "65 prompts with n = 2: a request can have at most 128"),
        ({"frequency_penalty": 0.5}, "frequency_penalty = 0.5: not supported by this server"),
        ({"stop": ["a"] * 17}, "stop: at most 16 texts"),
        ({"stop": 3}, "stop = 3: must be"),
        ({"seed": 1.5}, "seed = 1.5: must be an integer"),
    ],
    ids=str,
)
def test_errors_have_the_form_of_the_api(fields, message, server):
    answer = httpx.post(f"{server.address}/v1/completions", json={"prompt": PROMPT} | fields)
    error = answer.json()["error"]
    assert answer.status_code == 400 and message in error["message"]
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]


def test_neutral_fields_are_accepted(client):
    ask(client, best_of=1, frequency_penalty=0, presence_penalty=0, logit_bias={}, user="me")


@pytest.mark.parametrize(
    "body, status, code",
    [
        (b"\xff\x00 garbage", 400, "invalid_json"),
        (b"[1, 2]", 400, "invalid_json"),
        (b'{"prompt": "\\ud800"}', 400, "invalid_json"),
        (b'{"prompt": "' + b"a" * 20_001 + b'"}', 413, "body_too_large"),
        (iter([b"a" * 15_000] * 3), 413, "body_too_large"),
    ],
    ids=["garbage", "list", "surrogate", "too large", "too large, in chunks"],
)
def test_bodies_that_are_no_request(body, status, code, server):
    answer = httpx.post(f"{server.address}/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("method, path, status", [("GET", "/v2", 404), ("PUT", "/v1/models", 405)])
def test_other_addresses(method, path, status, server):
    answer = httpx.request(method, server.address + path)
    assert answer.status_code == status and answer.json()["error"]["message"]


def test_a_client_that_hangs_up_frees_its_row(server):
    """In the middle of a stream, or while it waits for a whole answer."""
    url = f"{server.address}/v1/completions"
    for _ in range(3):
        with httpx.stream("POST", url, json=ENDLESS | {"stream": True}, timeout=60) as stream:
            next(stream.iter_lines())
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=ENDLESS, timeout=httpx.Timeout(30, read=0.05))
    wait_for(lambda: health(server)["requests"] == 0)
    engine = server.service.engine
    wait_for(lambda: not any(engine._writers) and not engine._waiting)


def test_too_many_requests_are_refused(server):
    asked = ENDLESS | {"stream": True}
    url = f"{server.address}/v1/completions"
    with contextlib.ExitStack() as stack:
        begin = functools.partial(httpx.stream, "POST", url, json=asked, timeout=60)
        streams = [stack.enter_context(begin()) for _ in range(9)]
        assert sorted(stream.status_code for stream in streams) == [200] * 8 + [429]
        (refused,) = (stream for stream in streams if stream.status_code == 429)
        assert refused.read() and refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "1"
    wait_for(lambda: health(server)["requests"] == 0)


def test_a_slow_reader_keeps_nobody_waiting(server, client):
    """It has read nothing when another request is answered."""
    asked = ENDLESS | {"stream": True, "n": 1, "logprobs": 5}
    url = f"{server.address}/v1/completions"
    with httpx.stream("POST", url, json=asked, timeout=60):
        assert ask(client, max_tokens=5, temperature=0).choices
    wait_for(lambda: health(server)["requests"] == 0)


def health(server) -> dict:
    return httpx.get(f"{server.address}/health").json()


def wait_for(condition, seconds: float = 30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_example_of_the_documentation(server):
    """The OpenAI client's, with this server's address."""
    page = (DOCS / "serving.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```py\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names = {}
    exec(example.replace("http://127.0.0.1:8000", server.address), names)
    assert names["answer"].choices[0].text == names["text"] != ""


def test_pages_of_other_sites_are_refused(server):
    url = f"{server.address}/v1/models"
    answer = httpx.get(url, headers={"Origin": "https://example.org"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin")
    answer = httpx.get(url, headers={"Host": "example.org"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host")
    assert httpx.get(url, headers={"Origin": server.address}).status_code == 200


def test_a_token_is_asked_for(generator, tmp_path):
    token = "a secret of many characters".replace(" ", "-")
    with running(generator, tmp_path, token=token) as server:
        url = f"{server.address}/v1/models"
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {token}x"}):
            answer = httpx.get(url, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        with openai.OpenAI(base_url=f"{server.address}/v1", api_key=token) as client:
            assert [model.id for model in client.models.list()] == [NAME]


def test_what_has_begun_is_finished(generator, tmp_path):
    """The server is told to stop in the middle of a stream."""
    with running(generator, tmp_path, rows=1) as server:
        url = f"{server.address}/v1/completions"
        asked = {"prompt": PROMPT, "max_tokens": 400, "stream": True, "seed": 1, "logprobs": 0}
        with httpx.stream("POST", url, json=asked, timeout=60) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            server.stop()
            rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in [first, *rest[:-1]]]
    tokens = [one for chunk in chunks for one in chunk["choices"][0]["logprobs"]["tokens"]]
    assert len(tokens) == 400 or tokens[-1] == f"token_id:{END}"
