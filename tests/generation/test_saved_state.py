"""Saved decoding states: generation continues exactly, or the file is refused."""

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from block_recurrent import Generator, UserError, load_state, save_state
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.generation.saved_state import StateFormat, load_context
from block_recurrent.generation.text_stream import TextStream
from tiny import TINY, make_model, make_tokens, variant_model

W = TINY.window_length


@pytest.fixture(scope="module")
def one() -> Generator:
    return Generator(variant_model("fixed_skip"))


@pytest.fixture
def saved(one, tmp_path):
    """The file, and the state in it: two documents, one of them three blocks long."""
    state = one.read(one.start(2), [make_tokens(1, 3 * W + 3)[0], make_tokens(1, 2)[0]])
    save_state(tmp_path / "state.safetensors", state, one)
    return tmp_path / "state.safetensors", state


def test_generation_continues_from_a_saved_state(one, saved):
    path, state = saved
    loaded = load_state(path, one)
    expected = [piece.tokens for piece in one.stream(state, 2 * W)]
    found = [piece.tokens for piece in one.stream(loaded, 2 * W)]
    np.testing.assert_array_equal(found, expected)
    assert [file.name for file in path.parent.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("name", ["bfloat16", "full_attention"])
def test_every_array_is_restored_exactly(name, tmp_path):
    other = Generator(variant_model(name), segment_length=2 * W)
    state = other.read(other.start(1), [make_tokens(1, 3 * W + 3)[0]])
    save_state(tmp_path / "state.safetensors", state, other)
    loaded = load_state(tmp_path / "state.safetensors", other)
    leaves = zip(jax.tree.leaves(loaded), jax.tree.leaves(state), strict=True)
    for mine, theirs in leaves:
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)


def test_another_architecture_is_refused(saved):
    path, _ = saved
    other = Generator(make_model(gate="lstm", num_states=7))
    with pytest.raises(UserError) as error:
        load_state(path, other)
    assert str(error.value) == (
        f"the state {path} comes from another model (num_states: 6 in the file, 7 here; gate: "
        "fixed in the file, lstm here): read the text again"
    )


def test_the_text_continues_from_a_saved_state(one, tmp_path):
    """The state ends inside a character, just after a block that holds its first byte."""
    tokens = ByteVocabulary().encode(b"a" * (W - 2) + b"\xf0\x9f\x99").tolist()
    state = one.read(one.start(), [tokens])
    stream = TextStream(ByteVocabulary(), tokens)
    save_state(path := tmp_path / "state.safetensors", state, one, stream.context)
    stream = TextStream(ByteVocabulary(), load_context(path, load_state(path, one)))
    assert stream.add([0x82 + 3, ord("b") + 3]) == "🙂b"


@pytest.mark.parametrize("length", [0, 1, W - 1, W, W + 3])
def test_states_without_context_give_the_tokens_of_their_block(length, one, tmp_path):
    """As of files that were saved without context."""
    tokens = list(range(3, 3 + length))
    state = one.read(one.start(), [tokens])
    save_state(path := tmp_path / "state.safetensors", state, one)
    in_block = (length + 1) % W or W  # BEGIN precedes the tokens
    assert load_context(path, load_state(path, one)) == tokens[-in_block:][: length or 0]


def test_other_parameters_are_refused(saved):
    path, _ = saved
    with pytest.raises(UserError, match="from the same architecture with other parameters"):
        load_state(path, Generator(make_model(seed=1)))


@pytest.mark.parametrize("damage", ["missing", "text", "short", "other", "shape"])
def test_files_that_are_not_a_state(damage, one, saved):
    path, _ = saved
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("once upon a time")
    elif damage == "short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "shape":
        with safe_open(path, "numpy") as file:
            arrays, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
        path.write_bytes(save(arrays | {"block": arrays["block"][:, 1:]}, header))
    else:
        path.write_bytes(save({"a": np.zeros(3)}))
    with pytest.raises(UserError) as error:
        load_state(path, one)
    start = "cannot read the state" if damage == "missing" else f"{path} is not a saved state"
    assert str(error.value).startswith(start) and "\n" not in str(error.value)


def test_unwritable_folder(one, saved):
    path, state = saved
    with pytest.raises(UserError, match="cannot write the state .*: name another file"):
        save_state(path / "below", state, one)


def test_the_parameters_are_looked_at_once_for_many_states(tmp_path):
    one, path = Generator(variant_model("fixed_skip")), tmp_path / "state.safetensors"
    state, form = one.read(one.start(), [make_tokens(1, W)[0]]), StateFormat(one)
    form.save(path, state)
    form.load(path)
    one.params = None
    form.save(path, state)
    assert jax.tree.all(jax.tree.map(np.array_equal, form.load(path), state))
