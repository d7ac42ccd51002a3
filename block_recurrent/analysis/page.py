"""The page that shows, for every token of a text, what the memory of a model does."""

from pathlib import Path

import numpy as np
from jaxtyping import Integer

from block_recurrent.analysis.packing import Packed, integers, pack, quantise
from block_recurrent.analysis.reading import LayerReading, Reading
from block_recurrent.data.vocabularies import OtherVocabulary, Vocabulary
from block_recurrent.generation.text_stream import TextStream
from block_recurrent.model.config import ModelConfig
from block_recurrent.reporting.page import html_page

WEB = Path(__file__).parent / "web"
SCRIPTS = (
    "unpack.js",
    "document.js",
    "scales.js",
    "text.js",
    "chart.js",
    "state_map.js",
    "overview.js",
    "details.js",
    "memory.js",
)
STYLES = ("text.css", "memory.css")


def memory_page(
    title: str, model: str, config: ModelConfig, vocabulary: Vocabulary, reading: Reading
) -> str:
    """A self-contained HTML page.

    Args:
      title: heading of the page.
      model: which model read the text.
      config: configuration of the model.
      vocabulary: vocabulary of the model.
      reading: what it read.
    """
    return html_page(
        title,
        (WEB / "memory.html").read_text(encoding="utf-8"),
        styles=[WEB / name for name in STYLES],
        scripts=[WEB / name for name in (*SCRIPTS, "whole.js")],
        data=page_data(model, config, vocabulary, reading),
    )


def live_page(title: str, *, needs_token: bool) -> str:
    """The page of a server, on which one gives a text that the server's model reads.

    Args:
      title: heading of the page.
      needs_token: whether it asks for the token that the server wants with every request.
    """
    names = ["token.html"] if needs_token else []
    return html_page(
        title,
        *(
            (WEB / name).read_text(encoding="utf-8")
            for name in (*names, "live.html", "memory.html")
        ),
        styles=[WEB / name for name in (*STYLES, "live.css")],
        scripts=[WEB / name for name in (*SCRIPTS, "live.js")],
        asks_server=True,
    )


def page_data(
    model: str,
    config: ModelConfig,
    vocabulary: Vocabulary,
    reading: Reading,
    before: Integer[np.ndarray, " M"] | None = None,
    *,
    ended: bool = True,
) -> str:
    """The data of the page, or of a part of it, as `pack` writes it.

    Args:
      model: which model read the text.
      config: configuration of the model.
      vocabulary: vocabulary of the model.
      reading: what it read.
      before: the tokens before those of `reading`, if it is not the beginning of the text.
      ended: whether the text ends with `reading`.
    """
    pieces = text_pieces(reading.tokens, vocabulary, before, ended=ended)
    arrays = {
        "lengths": integers(np.array([utf16_length(piece) for piece in pieces])),
        "tokens": integers(reading.tokens),
        "predicted": integers(reading.predicted),
        "probabilities": quantise(reading.probabilities, power=2),
    }
    # One scale for all, so that equal losses stay equal.
    rows = quantise(np.stack(list(reading.bits.values())), np.uint16)
    for name, row in zip(reading.bits, rows.array, strict=True):
        arrays[name] = rows._replace(array=row)
    for index, layer in reading.layers.items():
        arrays |= {f"{name}_{index}": each for name, each in pack_layer(layer).items()}
    shown = np.union1d(reading.tokens, reading.predicted).tolist()
    about = {
        "model": model,
        "window": config.window_length,
        "layers": list(reading.layers),
        "labels": {str(token): token_label(token, vocabulary) for token in shown},
    }
    return pack(arrays, "".join(pieces), about)


def pack_layer(layer: LayerReading) -> dict[str, Packed]:
    """The arrays of one layer. Small attention weights and changes are resolved well."""
    return {
        "states": integers(layer.states),
        "weights": quantise(layer.weights, power=2),
        "attention": quantise(layer.attention, power=2),
        "change": quantise(layer.change, power=2),
        "keep": quantise(layer.keep, np.uint16),
    }


def text_pieces(
    tokens: Integer[np.ndarray, " T"],
    vocabulary: Vocabulary,
    before: Integer[np.ndarray, " M"] | None = None,
    *,
    ended: bool = True,
) -> list[str]:
    """What each token adds to the text after the tokens `before`.

    A character whose bytes are in several tokens belongs to the last of them. At the end of the
    text, bytes that are only the beginning of one become U+FFFD.
    """
    if isinstance(vocabulary, OtherVocabulary):
        return [f"{token} " for token in tokens.tolist()]
    stream = TextStream(vocabulary, () if before is None else before)
    pieces = [stream.add([token]) for token in tokens.tolist()]
    if ended:
        pieces[-1] += stream.end()
    return pieces


def token_label(token: int, vocabulary: Vocabulary) -> str:
    """The text of a token by itself; bytes that are no text as hexadecimal numbers."""
    if isinstance(vocabulary, OtherVocabulary):
        return f"#{token}"
    content = vocabulary.decode([token])
    if not content:
        return "end of document" if token == vocabulary.end_id else f"special token {token}"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return " ".join(f"0x{byte:02X}" for byte in content)


def utf16_length(text: str) -> int:
    """The length in UTF-16, in which JavaScript counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
