"""Records which documents a run reads, so that later commands do not read others unnoticed."""

import json
from collections.abc import Collection, Mapping

from block_recurrent.data.documents import Documents
from block_recurrent.data.findings import shorten
from block_recurrent.data.held_out import document_name
from block_recurrent.errors import UserError
from block_recurrent.files.paths import AnyPath, explain_path_errors
from block_recurrent.files.writing import atomic_write
from block_recurrent.parallel.processes import is_main_process

RECORD = "corpus.json"
MAX_NAMES = 20_000  # of a larger split, only the fingerprint is recorded
SHOWN = 3  # names in a message


def record_corpus(workdir: AnyPath, splits: Mapping[str, Documents]):
    """Writes corpus.json: of each split, its fingerprint, and the length of each document."""
    if not is_main_process():
        return
    record = {split: _describe(documents) for split, documents in splits.items()}
    with explain_path_errors(workdir, "write to"), atomic_write(workdir / RECORD) as file:
        file.write(json.dumps(record, indent=1).encode())


def check_corpus(workdir: AnyPath, splits: Mapping[str, Documents], checked: Collection[str]):
    """Checks that splits have the documents that they had when the run started.

    A run of an earlier version has no record and is not checked.

    Args:
      workdir: the folder of the run.
      splits: all splits of the corpus as it is now.
      checked: names of the splits to check.

    Raises:
      UserError: a document was added, removed or changed, or is now in another split.
    """
    with explain_path_errors(workdir, "read"):
        if not (workdir / RECORD).exists():
            return
        content = (workdir / RECORD).read_bytes()
    try:
        record = json.loads(content)
        fingerprints = {split: int(one["fingerprint"]) for split, one in record.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{workdir / RECORD} is damaged: restore it, or delete it to continue without a check "
            "that the corpus is the same"
        ) from error
    for split in checked:
        if fingerprints.get(split, splits[split].fingerprint) != splits[split].fingerprint:
            now = {split: _describe(documents) for split, documents in splits.items()}
            raise UserError(
                f"the corpus has changed since this run started ({_explain(record, now)}): "
                "restore it, or start a new run with the current files in another --workdir"
            )


def _describe(documents: Documents) -> dict:
    described = {"fingerprint": documents.fingerprint, "documents": len(documents.lengths)}
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
