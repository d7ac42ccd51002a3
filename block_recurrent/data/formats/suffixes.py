"""Which format a file has, by its suffixes: 'a.jsonl.zst' is JSON lines, compressed."""

from typing import Literal

Format = Literal["text", "json", "csv", "tsv", "parquet", "arrow", "tar", "zip"]

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
ROWS: dict[str, Format] = {
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
ARCHIVES: dict[str, Format] = {".tar": "tar", ".zip": "zip"}


def split_compression(name: str) -> tuple[str, str]:
    """The name without the suffix of a compression, and that suffix; '' if there is none."""
    for short, long in SHORT.items():
        if name.lower().endswith(short):
            name = name[: -len(short)] + long
    suffix = next((each for each in COMPRESSIONS if name.lower().endswith(each)), "")
    return name[: len(name) - len(suffix)], suffix


def format_of(name: str, of_all: Format | Literal["auto"] = "auto") -> Format:
    """The format of a file, without its compression.

    Args:
      name: of the file.
      of_all: `data.format`, which says what is inside compressed files and archives; 'auto': their
        suffixes say it. Files with an unknown suffix are text.
    """
    name = split_compression(name)[0].lower()
    suffix = name[name.rfind(".") :] if "." in name else ""
    if suffix in ARCHIVES:
        return ARCHIVES[suffix]
    return ROWS.get(suffix, "text") if of_all == "auto" else of_all
