"""Recognises what the beginning of a file contains: text, text in another encoding, or no text."""

import codecs
import unicodedata
from typing import Literal, NamedTuple

# How files of formats that are no text begin.
MAGIC = {
    b"%PDF-": "PDF",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "RAR",
    b"PAR1": "parquet",
    b"ARROW1": "Arrow",
    b"SQLite format 3\x00": "SQLite",
    b"\x93NUMPY": "NumPy",
    b"\x89HDF\r\n": "HDF5",
    b"\x89PNG\r\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"\x00\x00\x01\x00": "icon",
    b"wOF": "font",
    b"\x00\x01\x00\x00": "font",
    b"OTTO\x00": "font",
    b"OggS\x00": "Ogg",
    b"ID3": "MP3",
    b"fLaC": "FLAC",
    b"\x1aE\xdf\xa3": "Matroska",
    b"\x7fELF": "ELF",
    b"\xca\xfe\xba\xbe": "Java class",
    b"\x00asm": "WebAssembly",
    b"\xd0\xcf\x11\xe0": "Microsoft Office",
    b"%!PS-Adobe": "PostScript",
}
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
NEEDS_BINARY = (b"BZh", b"ID3", b"wOF", b"fLaC", b"PAR1", b"ARROW1")  # words that text begins with
TEXT_CONTROLS = b"\t\n\v\f\r\x08\x1b"
MANY_CONTROLS = 0.05  # share of control characters above which bytes are no text
NO_TEXT = ("Cc", "Cn", "Co")  # Unicode's categories of control, unassigned and private characters
LOOKED_AT = 8192  # bytes, character by character
MANY_UNUSUAL = 0.01  # share of these above which characters are no text


class Content(NamedTuple):
    """What bytes contain.

    Attributes:
      kind: 'utf-8'; 'encoded', which is text in an encoding that is certain; 'invalid', which is
        not UTF-8 and may be text in an encoding that is not certain; or 'binary'.
      name: the name of the encoding or the format.
    """

    kind: Literal["utf-8", "encoded", "invalid", "binary"]
    name: str


def recognise(head: bytes, *, complete: bool = False) -> Content:
    """Recognises the content of a file from its first bytes.

    Args:
      head: the first bytes, at least a few hundred, if the file has them.
      complete: whether these are all bytes of the file, so that no character is cut off.
    """
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return Content("encoded", name)
    controls = _has_controls(head)
    for magic, name in MAGIC.items():
        if head.startswith(magic) and (controls or magic not in NEEDS_BINARY):
            return Content("binary", name)
    if head[257:262] == b"ustar":
        return Content("binary", "tar")
    if controls:
        if name := _utf_16_without_mark(head):
            return Content("encoded", name)
        return Content("binary", "binary data")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=complete)
    except UnicodeDecodeError:
        return Content("invalid", "invalid UTF-8")
    return Content("utf-8", "UTF-8")


def _has_controls(head: bytes) -> bool:
    """Whether there are zeros or many control characters, which text has not."""
    controls = head.translate(None, bytes(range(32, 256)) + TEXT_CONTROLS)
    return b"\x00" in controls or len(controls) > MANY_CONTROLS * len(head)


def _utf_16_without_mark(head: bytes) -> str | None:
    """UTF-16LE or UTF-16BE, if all that the bytes mean in it is text."""
    head = head[: min(len(head) // 2 * 2, LOOKED_AT)]
    # Zeros are the first byte of a space or a line end in UTF-16BE, and the second in UTF-16LE.
    name = "UTF-16BE" if head[::2].count(0) > head[1::2].count(0) else "UTF-16LE"
    text = codecs.getincrementaldecoder(name)(errors="replace").decode(head)
    unusual = sum(
        one == "\ufffd" or (unicodedata.category(one) in NO_TEXT and not one.isspace())
        for one in text
    )
    return name if len(text) > 7 and unusual <= MANY_UNUSUAL * len(text) else None
