"""Records which documents a run reads, so that later commands do not read others unnoticed."""

import base64
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from block_recurrent.data.documents import Documents
from block_recurrent.data.extents import (
    IN_MEMORY,
    Stored,
    bytes_hashed,
    hashes,
    modification_times,
)
from block_recurrent.data.findings import shorten
from block_recurrent.data.held_out import document_name
from block_recurrent.data.mixture import Mixture
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, explain_path_errors
from block_recurrent.files.writing import atomic_write
from block_recurrent.parallel.processes import is_main_process

RECORD = "corpus.json"
MAX_NAMES = 20_000  # of a larger split, only the fingerprint is recorded
SHOWN = 3  # names in a message
UNRECORDED = (
    "the content of the corpus was not recorded when this run started, by an earlier version: only "
    "the names and sizes of its documents have been compared"
)


class Compared(NamedTuple):
    """Content that is as recorded.

    Attributes:
      content: what to record now: new modification times.
      touched: number of files with other modification times.
      sampled: whether only samples of some files were read.
    """

    content: dict[str, str]
    touched: int
    sampled: bool


def record_corpus(workdir: AnyPath, splits: Mapping[str, Documents]):
    """Writes corpus.json: of each split, its fingerprint, lengths, and hashes of its content."""
    if is_main_process():
        described = {split: _describe(documents) for split, documents in splits.items()}
        for split, documents in splits.items():
            described[split] |= _content(documents)
        _write(workdir, described)


def check_corpus(
    workdir: AnyPath,
    splits: Mapping[str, Documents],
    checked: Collection[str],
    *,
    note: Callable[[str], object] = print,
    update: bool = False,
    options: Sequence[str] = (),
) -> bool:
    """Checks that splits have the documents that they had when the run started.

    The documents may lie in another place. The content of a file is compared only if its
    modification time has changed, or if options of the corpus have.

    Args:
      workdir: the folder of the run.
      splits: all splits of the corpus as it is now.
      checked: names of the splits to check.
      note: shows a line to the user.
      update: whether to record new modification times, and content that was not recorded.
      options: changes of the options of the corpus, which a message names.

    Returns:
      False if the run has no record, because an earlier version started it.

    Raises:
      UserError: a document was added, removed or changed, or is now in another split.
    """
    record = _read(workdir)
    if record is None:
        note(f"{workdir} has no {RECORD}: its documents cannot be compared with those of its start")
        if update:
            record_corpus(workdir, splits)
        return False
    for split in checked:
        if split in record and not _same_documents(record[split], splits[split]):
            now = {split: _describe(documents) for split, documents in splits.items()}
            raise _changed([_explain(record, now), *options])
    known = [split for split in checked if split in record]
    unrecorded = [split for split in known if "hashes" not in record[split]]
    compared = {
        split: _compare_content(record[split], splits[split], everything=bool(options))
        for split in known
        if split not in unrecorded
    }
    if touched := sum(found.touched for found in compared.values()):
        what = "a sample" if any(found.sampled for found in compared.values()) else "all"
        note(
            f"the files of the corpus were modified or copied since this run started ({touched:,} "
            f"modification times differ), but have the same content ({what} of it was compared)"
        )
    if unrecorded:
        note(UNRECORDED + (". It is recorded now" if update else ""))
    if update and is_main_process():
        new = {split: record[split] | found.content for split, found in compared.items()}
        new |= {split: record[split] | _content(splits[split]) for split in unrecorded}
        if record != record | new:
            _write(workdir, record | new)
    return True


def _read(workdir: AnyPath) -> dict[str, dict[str, Any]] | None:
    """The record of a run, or None."""
    with explain_path_errors(workdir, "read"):
        if not (workdir / RECORD).exists():
            return None
        content = (workdir / RECORD).read_bytes()
    try:
        record = json.loads(content)
        for one in record.values():
            int(one["fingerprint"])
            times, found = (_unpack(one.get(name, "")) for name in ("modified", "hashes"))
            if len(times) != len(found):
                raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{workdir / RECORD} is damaged: restore it, or delete it to continue without a check "
            "that the corpus is the same"
        ) from error
    return record


def _write(workdir: AnyPath, record: Mapping[str, dict[str, Any]]):
    with explain_path_errors(workdir, "write to"), atomic_write(workdir / RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())


def _content(documents: Documents) -> dict[str, str]:
    """The modification time and the hash of each extent, for the record."""
    extents = documents.extents() if isinstance(documents, Stored) else []
    times = modification_times(extents)
    return {"modified": _pack(times), "hashes": _pack(hashes(extents, bytes_hashed(extents)))}


def _compare_content(
    recorded: Mapping[str, Any], documents: Documents, *, everything: bool
) -> Compared:
    """Compares the content of documents with the record.

    Args:
      recorded: the record of their split.
      documents: as they are now.
      everything: whether to compare files with the recorded modification times too.

    Raises:
      UserError: it has changed.
    """
    extents = documents.extents() if isinstance(documents, Stored) else []
    before, times = _unpack(recorded["modified"]), modification_times(extents)
    if len(before) != len(times):
        raise _changed(["its files"])
    touched = before != times
    read = np.flatnonzero(everything | touched | (times == IN_MEMORY))
    most, some = bytes_hashed(extents), [extents[index] for index in read]
    changed = hashes(some, most) != _unpack(recorded["hashes"])[read]
    if changed.any():
        names = {document_name(some[index].name) for index in np.flatnonzero(changed)}
        raise _changed([f"of other content: {shorten(sorted(names), SHOWN)}"])
    sampled = any(extent.size > most for extent in some)
    return Compared({"modified": _pack(times)}, int(touched.sum()), sampled)


def _same_documents(recorded: Mapping[str, Any], documents: Documents) -> bool:
    """Whether names and sizes are the same. In a mixture, the weights of the sources may differ."""
    if "sources" in recorded and isinstance(documents, Mixture):
        return recorded["sources"] == _sources(documents)
    return int(recorded["fingerprint"]) == documents.fingerprint


def _sources(documents: Mixture) -> list[int]:
    return [source.fingerprint for source in documents.sources]


def _changed(reasons: Sequence[str]) -> UserError:
    return UserError(
        f"the corpus has changed since this run started ({'; '.join(reasons)}): "
        "restore it, or start a new run with the current files in another --workdir"
    )


def _pack(numbers: Int64[np.ndarray, " extents"]) -> str:
    return base64.b64encode(numbers.astype("<i8").tobytes()).decode()


def _unpack(text: str) -> Int64[np.ndarray, " extents"]:
    return np.frombuffer(base64.b64decode(text, validate=True), "<i8").astype(np.int64)


def _describe(documents: Documents) -> dict[str, Any]:
    """The names and lengths of documents, for the record."""
    described = {"fingerprint": documents.fingerprint, "documents": len(documents.lengths)}
    if isinstance(documents, Mixture):
        described["sources"] = _sources(documents)
    if described["documents"] <= MAX_NAMES:
        lengths = zip(documents.names, documents.lengths.tolist(), strict=True)
        described["lengths"] = dict(lengths)
    return described


def _explain(before: Mapping[str, dict], now: Mapping[str, dict]) -> str:
    """What is different, such as "added b.txt; removed a.txt"."""
    if not all("lengths" in one for one in (*before.values(), *now.values())):
        return "; ".join(
            f"{split}: {one['documents']:,} documents then, {now[split]['documents']:,} now"
            for split, one in before.items()
            if split in now
        )
    then, after = _files(before), _files(now)
    both = then.keys() & after.keys()
    found = {
        "added": after.keys() - then.keys(),
        "removed": then.keys() - after.keys(),
        "of another length": {name for name in both if sum(then[name]) != sum(after[name])},
        "now in another split": {
            name
            for name in both
            if sum(then[name]) == sum(after[name]) and then[name] != after[name]
        },
    }
    lines = (f"{what}: {shorten(sorted(names), SHOWN)}" for what, names in found.items() if names)
    return "; ".join(lines) or "their order or their vocabulary"


def _files(record: Mapping[str, dict]) -> dict[str, list[int]]:
    """The length of each document in each split, without the end tokens of its parts."""
    splits = sorted(record)
    found: dict[str, list[int]] = {}
    for index, split in enumerate(splits):
        for name, length in record[split]["lengths"].items():
            lengths = found.setdefault(document_name(name), [0] * len(splits))
            lengths[index] += length - 1
    return found
