"""The engine gives every request the tokens that it gets alone, in any company."""

import functools
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import block_recurrent.serving.engine
import block_recurrent.serving.reading
import block_recurrent.serving.rows
from block_recurrent import Generator, Sampling
from block_recurrent.serving.engine import Call, Engine, Failed, Returned, Work, Written
from block_recurrent.serving.prefix_cache import PrefixCache, block_keys
from block_recurrent.serving.reading import Reader, Reading
from tiny import TINY, assert_same_numbers, forward, make_tokens, variant_model

W = TINY.window_length
END = 1


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_recurrent.serving.rows, "WRITE_AT_ONCE", 5)
        for module in (block_recurrent.serving.reading, block_recurrent.serving.engine):
            patch.setattr(module, "READ_AT_ONCE", 2 * W)
        yield


@functools.cache
def generator(name: str = "fixed_skip") -> Generator:
    return Generator(variant_model(name), segment_length=2 * W)


@functools.cache
def engine(name: str = "fixed_skip") -> Engine:
    """Three rows. Tests run it again and again."""
    return Engine(generator(name), rows=3, end_token=END)


def make_request(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "tokens": np.asarray(make_tokens(1, int(rng.integers(0, 9 * W)), seed=seed)[0]),
        "num_tokens": int(rng.integers(1, 4 * W)),
        "seed": int(rng.integers(2**32)),
        "temperature": float(rng.choice([0, 0.5, 1, 1.5])),
        "top_p": float(rng.choice([0.5, 0.9, 1])),
        "choices": int(rng.choice([1, 1, 2])),
        "scored": bool(rng.integers(2)),
        "prompt_scored": bool(rng.integers(2)),
    }


def run(one: Engine, requests: list[dict], arrivals: list[int] | None = None) -> list[list]:
    """The events of all requests. Number i arrives when there have been `arrivals[i]` events."""
    events = [[] for _ in requests]
    left, count = list(zip(arrivals or [0] * len(requests), requests, events, strict=True)), 0

    def arrive():
        while left and left[0][0] <= count:
            _, request, own = left.pop(0)
            one.submit(Work(send=functools.partial(receive, own), **request))
        if not left:
            one.stop()

    def receive(own, event):
        nonlocal count
        own.append(event)
        count += 1
        if left:
            arrive()

    arrive()
    one.run()
    return events


def tokens(events: list, choice: int = 0) -> list[int]:
    return [
        int(token)
        for event in events
        if isinstance(event, Written) and event.choice == choice
        for token in event.tokens
    ]


def scores(events: list, choice: int = 0) -> np.ndarray:
    own = [e.scores.logprob for e in events if isinstance(e, Written) and e.choice == choice]
    return np.concatenate(own)


@pytest.mark.parametrize("name", ["fixed_skip", pytest.param("modern", marks=pytest.mark.slow)])
def test_random_arrivals_equal_one_by_one(name):
    requests = [make_request(seed) for seed in range(14)]
    arrivals = sorted(np.random.default_rng(0).integers(0, 30, len(requests)).tolist())
    arrivals[0] = 0
    together = run(engine(name), requests, arrivals)
    changes = 0
    for request, events in zip(requests, together, strict=True):
        (alone,) = run(engine(name), [request])
        for choice in range(request["choices"]):
            assert tokens(events, choice) == tokens(alone, choice) != []
            ends = [e.end for e in events if isinstance(e, Written) and e.choice == choice]
            assert ends[:-1] == [None] * (len(ends) - 1)
            found = tokens(events, choice)
            assert ends[-1] == ("stop" if found[-1] == END else "length")
            assert len(found) <= request["num_tokens"]
            if request["scored"]:
                assert_same_numbers(scores(events, choice), scores(alone, choice))
        changes += events[0].cached != alone[0].cached
    assert changes, "otherwise it is not shown that the cache changes nothing"


@pytest.mark.parametrize(
    "temperature, top_p",
    [(0.0, 1.0), pytest.param(1.0, 1.0, marks=pytest.mark.slow), (0.5, 0.8)],
)
def test_tokens_are_those_of_the_generator(temperature, top_p):
    prompt = np.asarray(make_tokens(1, 3 * W + 2, seed=3)[0])
    request = {"tokens": prompt, "num_tokens": 2 * W, "choices": 2, "seed": 2**32 - 1}
    request |= {"temperature": temperature, "top_p": top_p}
    (events,) = run(engine(), [request])
    expected = generator().generate(
        [prompt] * 2,
        2 * W,
        sampling=Sampling(temperature, top_p=top_p),
        seed=2**32 - 1,
        stop_tokens=[END],
    )
    assert [tokens(events, 0), tokens(events, 1)] == [row.tolist() for row in expected]


@pytest.mark.parametrize(
    "name", ["fixed_skip", pytest.param("full_attention", marks=pytest.mark.slow)]
)
def test_scores_are_those_of_the_forward_pass(name):
    prompt = np.asarray(make_tokens(1, 5 * W + 3, seed=4)[0])
    request = {"tokens": prompt, "num_tokens": W, "choices": 1, "temperature": 1.0}
    (events,) = run(engine(name), [request | {"scored": True, "prompt_scored": True}])
    text = np.concatenate([[0], prompt, tokens(events)])
    padded = jnp.asarray([np.pad(text, (0, -len(text) % (2 * W)))], jnp.int32)
    starts = np.zeros((1, padded.shape[1] // W), bool)
    if name == "full_attention":
        starts[:, ::2] = True
    model = variant_model(name)
    logits, _ = forward(model, padded, model.initial_state(1), jnp.asarray(starts))
    logprobs = jax.nn.log_softmax(logits[0])
    expected = logprobs[np.arange(len(text) - 1), text[1:]]
    found = np.concatenate([events[0].scores.logprob, scores(events)])
    assert_same_numbers(found, expected)
    top = events[0].scores
    best = jnp.argmax(logprobs, axis=1)[: len(prompt)]
    assert np.mean(top.top_ids[:, 0] == best) > 0.95
    assert np.all(np.diff(top.top_logprobs) <= 0)


def states_of(reader: Reader, prompt) -> tuple:
    reading = Reading(reader, prompt)
    while not reading.finished:
        reading.step()
    return reading.state, reading.cached


def test_a_common_beginning_is_read_once_and_exactly():
    """Whatever was read before, the state has the same bits as without the cache."""
    none, kept = (Reader(generator(), PrefixCache(size)) for size in (0, 1 << 30))
    text = np.asarray(make_tokens(1, 12 * W, seed=5)[0])
    saved = []
    for length, other in [(7 * W, 0), (7 * W, 0), (12 * W, 5 * W + 1), (6 * W + 3, 0), (4, 0)]:
        prompt = text[:length].copy()
        if other:
            prompt[other:] = (prompt[other:] + 1) % 260
        expected, _ = states_of(none, prompt)
        found, cached = states_of(kept, prompt)
        saved.append(cached)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    # In chunks of two blocks: 4 of 5 common blocks can be used to read a longer prompt.
    assert saved == [0, 7 * W - 1, 4 * W - 1, 6 * W - 1, 0]


def test_the_cache_keeps_what_was_used_last_within_its_bytes():
    state = generator().start(1).memory
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    cache = PrefixCache(2 * size + 1)
    for key in (b"1", b"2"):
        cache.put(key, state)
    assert cache.get(b"1") is state
    cache.put(b"3", state)
    assert [cache.get(key) is None for key in (b"1", b"2", b"3")] == [False, True, False]
    assert cache.num_bytes == 2 * size
    PrefixCache(0).put(b"1", state)


def test_keys_depend_on_everything_before():
    text = np.arange(3 * W, dtype=np.int32)
    changed = text.copy()
    changed[0] += 1
    one, other = block_keys(text, W), block_keys(changed, W)
    assert len(one) == 3 and not set(one) & set(other)
    assert block_keys(text[: 3 * W - 1], W) == one[:2]


def test_a_long_prompt_stalls_nobody():
    """While it is read, the other request is written."""
    order = []
    long = {"tokens": np.zeros(40 * W, np.int32)}
    short = {"tokens": np.zeros(3, np.int32), "choices": 1, "num_tokens": 20, "temperature": 0.0}
    one = engine()
    for name, request in (("long", long), ("short", short)):
        one.submit(Work(send=lambda event, name=name: order.append(name), **request))
    one.stop()
    one.run()
    assert order[-1] == "long" and order.count("short") == 5


def test_what_is_stopped_leaves_its_row():
    one, found = engine(), []
    work = Work(make_request(1)["tokens"], found.append, choices=4, num_tokens=10**6)

    def send(event):
        found.append(event)
        if isinstance(event, Written):
            work.stopped.add(event.choice)  # each of the four is stopped after its first tokens

    work.send = send
    one.submit(work)
    one.stop()
    one.run()
    assert sorted(event.choice for event in found[1:]) == [0, 1, 2, 3]
    cancelled = Work(np.zeros(3, np.int32), found.append, choices=1, num_tokens=5, cancelled=True)
    one.submit(cancelled)
    one.stop()
    one.run()
    assert len(found) == 5


@pytest.mark.parametrize("part, name", [("reader", "read"), ("rows", "begin"), ("rows", "write")])
def test_an_error_reaches_everybody_who_waits(part, name, monkeypatch):
    one, found = Engine(generator(), rows=1, end_token=END), []

    def fail():
        raise MemoryError("no more")

    monkeypatch.setattr(getattr(one, part), name, lambda *_: fail())
    for _ in range(3):  # one is read or has the row, two wait
        one.submit(Work(np.zeros(3 * W, np.int32), found.append, choices=1, num_tokens=10))
    with pytest.raises(MemoryError):
        one.run()
    failed = [event for event in found if isinstance(event, Failed)]
    assert [event.message for event in failed] == [
        "the server has stopped: MemoryError: no more"
    ] * 3
    one.submit(Work(np.zeros(3, np.int32), found.append))
    assert found[-1] == failed[0]


def test_an_error_of_another_use_of_the_model_stops_only_that():
    one, found, error = engine(), [], ValueError("not this")

    def fail():
        raise error

    one.submit(Call(fail, found.append))
    one.submit(Call(lambda: 3, found.append))
    one.stop()
    one.run()
    assert found == [Returned(None, error), Returned(3)]


def test_a_signal_that_does_not_interrupt_the_wait_is_handled(monkeypatch):
    """An idle engine waits in the main thread; another one receives the signal."""
    monkeypatch.setattr(block_recurrent.serving.engine, "SIGNALS", 0.1)
    too_late = threading.Timer(30, engine().stop)  # else the test would not end

    def receive():
        time.sleep(0.5)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, lambda *_: engine().stop())
    try:
        for thread in (too_late, threading.Thread(target=receive)):
            thread.start()
        engine().run()
        assert too_late.is_alive()
    finally:
        too_late.cancel()
        signal.signal(signal.SIGTERM, previous)
