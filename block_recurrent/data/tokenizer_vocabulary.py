"""Tokenizers of Hugging Face (tokenizer.json) as vocabularies."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from block_recurrent.data.vocabulary_file import VocabularyFile
from block_recurrent.errors import UserError, first_line
from block_recurrent.files.paths import AnyPath

# Names that tokenizers give to the token at the end of a document.
END_TOKENS = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eos|>",
    "<eos>",
    "</s>",
    "[EOS]",
    "<｜end▁of▁sentence｜>",
)
# In place of a token that stands for byte b, the decoder gets character FIRST_PRIVATE + b.
FIRST_PRIVATE = 0x10FE00


class TokenizerVocabulary:
    """A tokenizer.json, as written by Hugging Face's `tokenizers` and `transformers`.

    Names of special tokens that occur in a text are text like any other: no document can contain
    its own end. Padding, truncation and the tokens that a template adds are switched off.

    Args:
      source: the file or its content. A file is read when it is first needed; training does not
        need it.
      size: number of ids; None: those of the tokenizer, and one for the end if it has none.
      end_id: the last token of every document; None: the first special token of `END_TOKENS` that
        the tokenizer has, or else the id after all tokens.
    """

    kind = "tokenizer"

    def __init__(self, source: AnyPath | bytes, size: int | None = None, end_id: int | None = None):
        self.file = VocabularyFile(source)
        self._size, self._end_id = size, end_id

    @functools.cached_property
    def size(self) -> int:
        return self._size or max(self._num_ids, self.end_id + 1)

    @functools.cached_property
    def end_id(self) -> int:
        if self._end_id is not None:
            return self._end_id
        names = {self._tokenizer.id_to_token(token): token for token in self._special}
        return next((names[name] for name in END_TOKENS if name in names), self._num_ids)

    @functools.cached_property
    def unknown_id(self) -> int | None:
        model = self._json["model"]
        name = model.get("unk_token")
        return model.get("unk_id") if name is None else self._tokenizer.token_to_id(name)

    @functools.cached_property
    def name(self) -> str:
        return f"tokenizer-{self.file.digest}-{self.size}"

    def encode(self, text: bytes) -> Int32[np.ndarray, " length"]:
        text = text.decode("utf-8", "replace")
        # Of a batch, only the fast method keeps no offsets.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return np.array(encoding.ids, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> bytes:
        ids = np.asarray(ids, np.int64).tolist()
        if self._decoders == ["ByteLevel"]:
            return b"".join([self._bytes.get(token, b"") for token in ids])
        tokens = [self._tokens[token] for token in ids if token in self._tokens]
        if not self._decoders:
            return " ".join(tokens).encode()
        if "ByteFallback" not in self._decoders:
            return self._tokenizer.decoder.decode(tokens).encode()
        text = self._tokenizer.decoder.decode([_PRIVATE.get(token, token) for token in tokens])
        return b"".join(_BYTES.get(character) or character.encode() for character in text)

    def words(self, text: str) -> list[str]:
        """The parts of a text, after its normalization, that are tokenized separately."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return [word for word, _ in splitter.pre_tokenize_str(text)] if splitter else [text]

    @property
    def spans_words(self) -> bool:
        """Whether an added token has white space inside, so that it can be more than a word."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return any(len(token.content.split()) > 1 for token in added if not token.special)

    @functools.cached_property
    def _tokens(self) -> dict[int, str]:
        """The tokens that are text, by id."""
        dropped = self._special | {self.end_id}
        tokens = self._tokenizer.get_vocab(with_added_tokens=True).items()
        return {token: text for text, token in tokens if token not in dropped}

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        """The bytes of each byte-level token that is text."""
        return {token: _bytes_of(text) for token, text in self._tokens.items()}

    @functools.cached_property
    def _decoders(self) -> list[str]:
        """The kinds of decoders that make text from tokens, in order."""
        decoder = self._json.get("decoder")
        if decoder is None:
            return []
        parts = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        return [part["type"] for part in parts]

    @functools.cached_property
    def _num_ids(self) -> int:
        """One more than the largest id, since ids may have gaps."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def _special(self) -> frozenset[int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token for token, about in added.items() if about.special)

    @functools.cached_property
    def _json(self) -> dict[str, Any]:
        self._tokenizer  # checks the file  # noqa: B018
        return json.loads(self.file.content)

    @functools.cached_property
    def _tokenizer(self):
        import tokenizers

        content = self.file.content
        try:
            tokenizer = tokenizers.Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises nothing more specific
            raise UserError(
                f"{self.file} is not a tokenizer.json that tokenizers {tokenizers.__version__} can "
                f"read ({first_line(error)}): install the version that wrote it or a newer one "
                "(pip install -U tokenizers), or name another file"
            ) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        return tokenizer


def _characters_of_bytes() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level tokens, as in GPT-2."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


def _bytes_of(token: str) -> bytes:
    """The bytes of a byte-level token; an added token is its own text."""
    try:
        return bytes([_BYTE_LEVEL[character] for character in token])
    except KeyError:
        return token.encode()


_BYTE_LEVEL = _characters_of_bytes()
_PRIVATE = {f"<0x{byte:02X}>": chr(FIRST_PRIVATE + byte) for byte in range(256)}
_BYTES = {chr(FIRST_PRIVATE + byte): bytes([byte]) for byte in range(256)}
