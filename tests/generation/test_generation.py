"""Generation equals the forward pass, for any division into prompts, rows and pieces."""

import functools
import re

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import block_recurrent.generation.generator
import block_recurrent.generation.writing
from block_recurrent import Generator, Sampling, UserError
from block_recurrent.data.vocabularies import PADDING
from block_recurrent.generation.decoding import BEGIN
from tiny import (
    TINY,
    VARIANTS,
    assert_same_numbers,
    forward,
    make_model,
    make_tokens,
    variant_model,
)

W = TINY.window_length
SEGMENT = 2 * W  # the context of full attention
PROMPTS = [np.asarray(make_tokens(1, n, seed=n)[0]) for n in (5, 2 * W - 1, 0, W)]
NEW = 2 * W + 3
MORE = {
    "rope_feedback": {"positions": "rope", "feedback": True, "ngram_rows": 50},
    "rope_full_attention": {"positions": "rope", "attention": "full", "recurrent_layers": ()},
    "fused": {"attention_kernel": "pallas", "num_layers": 2},
}
KINDS = ["fixed_skip", "modern", "full_attention"]
KINDS += [pytest.param("feedback", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_recurrent.generation.generator, "WRITE_AT_ONCE", 7)
        yield


def assert_same(one, other):
    """Asserts equal states. Positions of the block after the unread token do not matter."""

    def masked(state):
        used = np.arange(state.block.shape[1]) <= np.asarray(state.unread)[:, None]
        return state._replace(block=np.where(used, state.block, 0))

    assert_same_numbers(masked(one), masked(other))


@functools.cache
def generator(name: str) -> Generator:
    return Generator(model_of(name), segment_length=SEGMENT)


def model_of(name: str):
    return make_model(**MORE[name]) if name in MORE else variant_model(name)


class Recording(Sampling):
    """Samples, and records all logits."""

    def __init__(self, logits: list):
        super().__init__()
        object.__setattr__(self, "logits", logits)

    def __call__(self, logits, noise):
        jax.debug.callback(lambda x: self.logits.append(np.array(x)), logits, ordered=True)
        return super().__call__(logits, noise)

    __hash__ = object.__hash__


def full_inputs(prompts, rows):
    """The model's input for each row: `BEGIN`, the prompt and the new tokens, padded."""
    texts = [np.concatenate([[BEGIN], p, row]) for p, row in zip(prompts, rows, strict=True)]
    length = -(-max(map(len, texts)) // SEGMENT) * SEGMENT
    return jnp.asarray([np.pad(text, (0, length - len(text))) for text in texts], jnp.int32)


SLOW_TO_COMPILE = {
    "two_recurrent_layers",
    "gru_single",
    "lstm_dual",
    "selective_skip",
    "feedback_two_recurrent_layers",
}
SLOW_TO_COMPILE |= {"bfloat16", "rope_feedback", "rope_full_attention", "fused"}
LIKE_OTHERS = {
    "two_recurrent_layers",
    "gru_single",
    "lstm_dual",
    "rope_feedback",
    "rope_full_attention",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name in SLOW_TO_COMPILE)
            + [pytest.mark.long] * (name in LIKE_OTHERS),
        )
        for name in [*VARIANTS, *MORE]
    ],
)
def test_logits_equal_those_of_the_forward_pass(name):
    """At every position, over several blocks, with rows at different positions in their blocks."""
    recorded = []
    rows = generator(name).generate(PROMPTS, NEW, sampling=Recording(recorded))
    found = np.stack(recorded, axis=1)
    model, tokens = model_of(name), full_inputs(PROMPTS, rows)
    starts = np.zeros((len(PROMPTS), tokens.shape[1] // W), bool)
    if "full_attention" in name:
        starts[:, :: SEGMENT // W] = True
    expected, _ = forward(model, tokens, model.initial_state(len(PROMPTS)), jnp.asarray(starts))
    for prompt, mine, theirs in zip(PROMPTS, found, np.asarray(expected), strict=True):
        assert_same_numbers(mine, theirs[len(prompt) :][:NEW], name)


def test_documents_begin_as_in_training():
    assert BEGIN == PADDING


@pytest.mark.parametrize("name", KINDS)
def test_reading_and_writing_in_several_calls(name):
    """The same tokens, and the same state."""
    one = generator(name)
    prompts = [prompt[:14] for prompt in PROMPTS]
    *_, (_, whole) = pieces = list(one.stream(one.read(one.start(4), prompts), NEW, seed=3))
    state = one.read(one.start(4), [prompt[:9] for prompt in prompts])
    state = one.read(state, [prompt[9:] for prompt in prompts])
    texts = [[], [], [], []]
    for count in (1, W, NEW - W - 1):
        for piece in one.stream(state, count, seed=3):
            texts = [[*text, *new] for text, new in zip(texts, piece.tokens, strict=True)]
        state = piece.state
    for index, text in enumerate(texts):
        np.testing.assert_array_equal(text, np.concatenate([p.tokens[index] for p in pieces]))
    assert_same(state, whole)


@pytest.mark.parametrize("name", KINDS)
def test_writing_gives_the_state_of_reading_the_same_tokens(name):
    one = generator(name)
    written = one.generate(PROMPTS, NEW)
    *_, (_, state) = one.stream(one.read(one.start(4), PROMPTS), NEW)
    texts = [np.concatenate(pair) for pair in zip(PROMPTS, written, strict=True)]
    read = one.read(one.start(4), texts)
    if name == "full_attention":  # it carries nothing from one segment to the next
        state, read = state._replace(memory=()), read._replace(memory=())
    assert_same(state, read)


@pytest.mark.slow
def test_rows_are_independent():
    one = generator("fixed_skip")
    together = one.generate(PROMPTS, NEW, sampling=Sampling(0.0))
    for prompt, row in zip(PROMPTS[:2], together, strict=False):
        np.testing.assert_array_equal(one.generate([prompt], NEW, sampling=Sampling(0.0))[0], row)


def test_writing_zero_tokens():
    one = generator("fixed_skip")
    assert [row.size for row in one.generate(PROMPTS, 0)] == [0, 0, 0, 0]
    state = one.read(one.start(4), PROMPTS)
    assert list(one.stream(state, 0)) == []
    (piece,) = one.stream(state, 3)
    np.testing.assert_array_equal(piece.tokens, one.generate(PROMPTS, 3))


def test_the_seed_determines_the_tokens():
    one = generator("fixed_skip")
    same = [PROMPTS[0]] * 4
    first, again, other = (one.generate(same, NEW, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len({row.tobytes() for row in [*first, *other]}) == 8


@pytest.mark.parametrize(
    "numbers", [1, pytest.param(3 * 4 * TINY.vocab_size, marks=pytest.mark.slow), 10**9]
)
def test_tokens_do_not_depend_on_how_much_noise_is_drawn_at_once(numbers, monkeypatch):
    """The noise, and so the tokens, depends only on key, row and position."""
    monkeypatch.setattr(block_recurrent.generation.writing, "NOISE_AT_ONCE", numbers)
    recorded, seed = [], 5
    found = Generator(variant_model("fixed_skip")).generate(
        PROMPTS, NEW, seed=seed, sampling=Recording(recorded)
    )
    for row, prompt in enumerate(PROMPTS):
        row_key = jax.random.fold_in(jax.random.key(seed), row)
        for index in range(NEW):
            key = jax.random.fold_in(row_key, 1 + len(prompt) + index)  # 1: BEGIN
            noise = jax.random.gumbel(key, (TINY.vocab_size,))
            assert found[row][index] == np.argmax(recorded[index][row] + noise)


def compile_write(rows, vocab_size, sampling):
    """The compiled loop that writes tokens, of a tiny model with this vocabulary."""
    one = Generator(make_model(vocab_size=vocab_size, num_layers=2))
    writing = jax.eval_shape(one._begin, one.params, jax.eval_shape(lambda: one.start(rows)))
    ends = np.full(rows, 1000, np.int32)
    return one._write.lower(one.params, writing, jax.random.key(0), ends, sampling, ()).compile()


def test_memory_for_noise_is_bounded():
    """Drawing the noise of 32 tokens at once takes 128 times the memory of the logits."""
    rows, vocab_size = 64, 32_000
    memory = compile_write(rows, vocab_size, Sampling()).memory_analysis()
    assert memory.temp_size_in_bytes < 16 * 4 * rows * vocab_size


def test_greedy_decoding_draws_no_noise():
    texts = [compile_write(2, 260, Sampling(t)).as_text() for t in (0.0, 1.0)]
    assert ["threefry" in text for text in texts] == [False, True]


def test_a_row_stops_and_the_others_continue():
    """A stopped row keeps the state that it would have without the other rows."""
    one = generator("fixed_skip")
    free = one.generate(PROMPTS, NEW)
    stop = int(free[1][W])
    ends = [list(row).index(stop) + 1 if stop in row else NEW for row in free]
    assert ends[1] <= W + 1 and max(ends) == NEW
    *_, (_, state) = pieces = list(
        one.stream(one.read(one.start(4), PROMPTS), NEW, stop_tokens=(stop, 259))
    )
    for index, end in enumerate(ends):
        row = np.concatenate([piece.tokens[index] for piece in pieces])
        np.testing.assert_array_equal(row, free[index][:end])
    read = one.read(
        one.start(4),
        [np.concatenate([p, row[:n]]) for p, row, n in zip(PROMPTS, free, ends, strict=True)],
    )
    assert_same(state, read)


def test_long_prompts_compile_few_shapes(monkeypatch):
    monkeypatch.setattr(block_recurrent.generation.generator, "READ_AT_ONCE", 4 * W * 2)
    one = Generator(variant_model("sliding_window"))
    for lengths in ((40 * W, 3), (23 * W + 1, 11 * W), (7 * W, 31 * W)):
        prompts = [np.zeros(n, np.int32) for n in lengths]
        state = one.read(one.start(2), prompts)
        np.testing.assert_array_equal(state.length, np.array(lengths) + 1)
    assert one._read._cache_size() == 3  # of 1, 2 and 4 blocks


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda one: one.generate([[3, 260]], 1),
            "a prompt contains token 260: the model's tokens are 0 to 259",
        ),
        (lambda one: one.generate([[-1]], 1), "a prompt contains token -1"),
        (
            lambda one: one.read(one.start(2), [[3]]),
            "1 prompts for 2 rows: give one prompt per row",
        ),
        (lambda one: one.generate([[2**40]], 1), f"a prompt contains token {2**40}: the model's"),
        (lambda one: one.generate([[3, 4.0]], 1), "a prompt is [3, 4.0]: give a sequence of int"),
        (lambda one: one.generate([np.ones(3)], 1), "a prompt is array([1., 1., 1.]): give a"),
        (lambda one: one.generate([[True]], 1), "a prompt is [True]: give a sequence of integers"),
        (lambda one: one.generate(["text"], 1), "a prompt is 'text': give a sequence of integers"),
        (lambda one: one.generate([3, 4], 1), "a prompt is 3: give a sequence of integers"),
        (lambda one: one.generate([[[3], [4]]], 1), "a prompt is [[3], [4]]: give a sequence"),
        (lambda one: one.generate([[[3], [4, 5]]], 1), "a prompt is [[3], [4, 5]]: give a"),
        (lambda one: one.generate([], 1), "no prompts: give at least one, such as [[]] for a"),
        (lambda one: one.start(0), "batch_size = 0: must be at least 1"),
        (lambda one: one.start(1.0), "batch_size = 1.0: must be an integer: write 1"),
        (lambda one: one.generate([[3]], 1.5), "num_tokens = 1.5: must be an integer"),
        (lambda one: one.generate([[3]], -1), "num_tokens = -1: must be at least 0"),
        (lambda one: one.generate([[3]], True), "num_tokens = True: must be an integer"),
        (lambda one: one.generate([[3]], 1, seed=0.5), "seed = 0.5: must be an integer"),
        (lambda one: one.generate([[3]], 1, seed=-1), "seed = -1: must be at least 0 and below"),
        (
            lambda one: one.generate([[3]], 1, stop_tokens=(1.0,)),
            "stop_tokens = (1.0,): must be an integer: write 1",
        ),
        (lambda one: one.generate([[3]], 1, stop_tokens=5), "stop_tokens = 5: must be a tuple: wr"),
        (lambda one: one.generate([[3]], 1, stop_tokens=[260]), "stop_tokens = (260,): must be at"),
        (lambda one: one.generate([[3]], 1, sampling=0.7), "sampling = 0.7: must be a Sampling"),
        (lambda one: one.read((), [[3]]), "state is of type tuple: pass what start, read or a st"),
        (lambda one: next(one.stream(None, 1)), "state is of type NoneType: pass what start, read"),
        (
            lambda one: one.read(generator("full_attention").start(), [[3]]),
            "state.block has shape [1, 16], but should have [B, 8]",
        ),
        (
            lambda one: next(one.stream(generator("fixed_skip").start(), 1)),
            "state[1].recurrent is not None: this state is that of another model",
        ),
    ],
)
def test_invalid_arguments_are_refused(call, message, unchecked):
    with pytest.raises(UserError, match=re.escape(message)):
        call(generator("sliding_window"))


def test_a_state_cannot_be_used_again(unchecked):
    one, prompt = generator("sliding_window"), [[3] * W]
    state = one.start()
    after = one.read(state, prompt)
    with pytest.raises(UserError, match="this state was given to an earlier call, which reused"):
        one.read(state, prompt)
    assert one.read(after, prompt).length == 1 + 2 * W


def test_integers_of_numpy_are_accepted(unchecked):
    one, expected = generator("sliding_window"), [[3, 4], [5]]
    rows = [np.array([3, 4], np.uint16), jnp.array([5])]
    kinds = {"seed": np.uint8(1), "stop_tokens": np.array([1], np.int64)}
    found = one.generate(rows, np.int64(4), **kinds)
    for row, same in zip(found, one.generate(expected, 4, seed=1, stop_tokens=[1]), strict=True):
        np.testing.assert_array_equal(row, same)


@pytest.fixture
def unchecked():
    """As for users, who do not check annotations."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("length", [None, W + 1])
def test_full_attention_needs_a_segment(length):
    with pytest.raises(
        UserError, match=f"segment_length = {length}: a model with attention = 'full' needs"
    ):
        Generator(variant_model("full_attention"), segment_length=length)
