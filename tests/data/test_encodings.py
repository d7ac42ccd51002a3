"""Text of other encodings is trained on as UTF-8."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data import loaded_text
from block_recurrent.data.corpora import load_documents, survey_corpus
from block_recurrent.data.encodings import guess_encoding, to_utf8
from block_recurrent.data.prepare.folder_documents import group_files, read_pieces
from block_recurrent.errors import UserError
from preparing import write_texts

JAPANESE = "日本語の文章です。\nこれは二行目、カタカナも。\n"
GERMAN = "Füße und Bäume, schöner als zuvor.\nÄpfel für Jörg.\n"
TEXTS = {
    "utf-8": JAPANESE,
    "utf-16": JAPANESE,
    "utf-16-be": JAPANESE,
    "utf-32": JAPANESE,
    "shift_jis": JAPANESE,
    "euc_jp": JAPANESE,
    "iso2022_jp": JAPANESE,
    "latin_1": GERMAN,
}


def message_of(function, *arguments) -> str:
    with pytest.raises(UserError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@given(st.sampled_from(sorted(TEXTS)), st.lists(st.integers(0, 90), max_size=5))
def test_characters_may_be_cut_between_chunks(encoding, places):
    text = TEXTS[encoding].encode(encoding)
    places = [0, *sorted(places), len(text)]
    chunks = [text[a:b] for a, b in zip(places, places[1:], strict=False) if a < b]
    assert b"".join(to_utf8(chunks, encoding, "a")).decode() == TEXTS[encoding]


@pytest.mark.parametrize("encoding", TEXTS)
def test_detection(encoding):
    """By charset-normalizer, which needs more than a few words."""
    text = TEXTS[encoding] * 30
    if encoding != "iso2022_jp":  # which is valid ASCII
        assert b"".join(to_utf8([text.encode(encoding)], "detect", "a")).decode() == text
        assert text.encode(encoding).decode(guess_encoding(text.encode(encoding)[:1001])) == text


def test_marks_are_no_text():
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert b"".join(to_utf8([JAPANESE.encode(encoding)], "detect", "a")) == JAPANESE.encode()


def test_empty_files():
    assert b"".join(to_utf8([], "utf-16", "a")) == b"".join(to_utf8([], "detect", "a")) == b""


def test_text_in_another_encoding_than_said():
    chunks = [b"ASCII, ", b"then ", "日本".encode("euc_jp")]
    assert message_of(lambda: list(to_utf8(chunks, "utf-8", "a.txt"))) == (
        "a.txt is not in the encoding utf-8 (near byte 12): set data.encoding to its encoding or "
        "to 'detect', or exclude it with data.glob"
    )
    cut = JAPANESE.encode("utf-16")[:-1]
    assert "a.txt is not in the encoding utf-16" in message_of(
        lambda: list(to_utf8([cut], "utf-16", "a.txt"))
    )
    binary = b"\x00\x01\x02\xff" * 500
    assert message_of(lambda: list(to_utf8([binary], "detect", "a.pdf"))).startswith(
        "a.pdf is in no encoding that charset-normalizer detects: set data.encoding"
    )


@pytest.mark.parametrize("encoding", ["utf16", "Shift_JIS", "latin-1", "detect", None])
def test_names_of_encodings(encoding):
    assert DataConfig(encoding=encoding).encoding == encoding


def test_unknown_names():
    assert message_of(lambda: DataConfig(encoding="shift_jsi")) == (
        "data.encoding = 'shift_jsi' is no encoding of text: did you mean 'shift_jis'?"
    )
    for name in ("klingon", "base64", ""):
        assert f"data.encoding = '{name}' is no encoding of text" in message_of(
            lambda name=name: DataConfig(encoding=name)
        )


@pytest.mark.parametrize("encoding", ["euc_jp", "detect"])
def test_a_corpus_in_another_encoding(tmp_path, encoding):
    """It is converted, and the ends of its documents are held out, cut between lines."""
    texts = {name: f"{name}\n" + JAPANESE * 200 for name in ("a", "b")}
    write_texts(tmp_path, {name: text.encode("euc_jp") for name, text in texts.items()})
    data = DataConfig("text_files", str(tmp_path), encoding=encoding)
    splits = load_documents(data)
    train, held_out = splits["train"], splits["held_out"]
    for i, text in enumerate(texts.values()):
        assert train.raw(i) + held_out.raw(i) == text.encode() and train.raw(i).endswith(b"\n")
    assert train.num_characters + held_out.num_characters == sum(map(len, texts.values()))
    assert not survey_corpus(data, splits, 16).warnings


def test_a_store_of_another_encoding_has_the_same_documents(tmp_path):
    write_texts(tmp_path, {"a": (JAPANESE * 90).encode("utf-16"), "b": "二\n".encode("utf-16")})
    splits = load_documents(DataConfig("text_files", str(tmp_path), encoding="utf-16"))
    groups = group_files(tmp_path, "text_files", "**/*", 20, (), "utf-16").splits
    for split, ours in {"train": "train", "held_out": "validation"}.items():
        documents = splits[split]
        read = {
            group.name: b"".join(
                text for text, _ in read_pieces(group, tmp_path, "anywhere", 100, "utf-16")
            )
            for group in groups[ours]
        }
        assert read == {name: documents.raw(i) for i, name in enumerate(documents.names)}


def test_too_much_to_convert_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(loaded_text, "MOST_BYTES", 2**20)
    write_texts(tmp_path, {f"{i}": JAPANESE.encode("utf-16") * 3000 for i in range(5)})
    data = DataConfig("text_files", str(tmp_path), encoding="utf-16")
    message = message_of(load_documents, data)
    assert "of text that must be unpacked or converted: make a token store" in message
