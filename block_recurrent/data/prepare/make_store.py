"""Makes a token store from files, or from a seqio Task or Mixture."""

import functools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from block_recurrent.config.options import DataConfig, PrepareConfig
from block_recurrent.console.progress import PrepareProgress
from block_recurrent.data.prepare.lost_text import check_lost_text
from block_recurrent.data.prepare.partial_folder import is_prepared, partial_folder
from block_recurrent.data.prepare.plan import Plan, make_plan, store_split
from block_recurrent.data.prepare.shard_workers import Counters, Setup, write_shards
from block_recurrent.data.prepare.source import Sources, reads_files
from block_recurrent.data.prepare.store_writer import (
    Shard,
    finish_store,
    sum_counts,
    write_mixture,
)
from block_recurrent.data.prepare.write_shard import write_error
from block_recurrent.data.store_format import METADATA, VOCABULARY_FILES, read_json, share_lost
from block_recurrent.data.vocabulary_storage import describe_vocabulary


def prepare(
    sources: Sources,
    config: PrepareConfig,
    data: DataConfig,
    output: Path,
    about: Iterable[str] = (),
):
    """Writes the store, or its missing shards, and prints how to train from it.

    Args:
      sources: what to make a store of; see `open_sources`.
      config, data: the configuration that the sources were opened with.
      output: folder of the store.
      about: lines about the corpus, which are printed before anything is written.

    Raises:
      UserError: the store cannot be written, or `output` contains something else.
    """
    plan = make_plan(config, sources)
    try:
        if is_prepared(output, plan.content):
            print(f"{output} is already complete")
        else:
            with partial_folder(output, plan.content) as folder:
                _fill(folder, plan, config, data, about)
    except OSError as error:
        raise write_error(output, error) from error
    for line in _summary(output, plan):
        print(line)


def _fill(folder: Path, plan: Plan, config: PrepareConfig, data: DataConfig, about: Iterable[str]):
    """Writes the missing shards and the metadata of the store."""
    for task in plan.tasks:
        plan.store_of(task, folder).mkdir(exist_ok=True)
    shards = [shard for task in plan.tasks for shard in plan.shards_of(task, folder)]
    missing = [shard for shard in shards if not shard.is_finished]
    if len(missing) < len(shards):
        print(f"{len(shards) - len(missing)} of {len(shards)} shards are already complete")
    if missing:
        for line in about:
            print(line)
        for task, source in plan.tasks.items():
            source.begin(plan.store_of(task, folder))
        _write(missing, plan, config, data)
    for task in plan.tasks:
        for split, number in plan.descriptions[task]["shards"].items():
            counts = sum_counts(plan.store_of(task, folder), store_split(split), number)
            check_lost_text(f"{task}, split '{split}'", counts, config.allow_lossy_vocabulary)
        _finish(task, plan, folder)
    if plan.weights is not None:
        write_mixture(folder, plan.weights)


def _write(shards: list[Shard], plan: Plan, config: PrepareConfig, data: DataConfig):
    descriptions = {task: described["source"] for task, described in plan.descriptions.items()}
    setup = Setup(config, data, descriptions, plan.tasks if reads_files(config) else None)
    counters = Counters(len(shards))
    num_processes = min(config.num_processes or os.cpu_count() or 1, len(shards))
    print(f"writing {len(shards)} shards, {num_processes} at a time", flush=True)
    with PrepareProgress() as progress:
        update = functools.partial(_update, progress, counters, _num_examples(plan, shards))
        write_shards(shards, plan.tasks, setup, num_processes, counters, update)


def _num_examples(plan: Plan, shards: list[Shard]) -> float | None:
    """The number of examples in the shards; None if a source does not know."""
    known = {
        (shard.task, split): plan.tasks[shard.task].num_examples(split)
        for shard in shards
        for split in shard.splits
    }
    if None in known.values():
        return None
    return sum(
        known[shard.task, split] / shard.num_shards for shard in shards for split in shard.splits
    )


def _update(progress: PrepareProgress, counters: Counters, num_examples: float | None):
    examples, documents, tokens, finished = counters.numbers.sum(0).tolist()
    if num_examples:
        share = min(1.0, examples / num_examples)
    else:
        share = finished / len(counters.numbers)
    progress.update(documents, tokens, share)


def _finish(task: str, plan: Plan, folder: Path):
    """Writes the vocabulary and the metadata of a store."""
    store = plan.store_of(task, folder)
    source = plan.tasks[task]
    source.end(store)
    vocabulary = source.vocabulary
    if vocabulary.kind in VOCABULARY_FILES:
        (store / VOCABULARY_FILES[vocabulary.kind]).write_bytes(vocabulary.file.content)
    described = plan.descriptions[task]
    finish_store(
        store,
        task=task,
        vocabulary=describe_vocabulary(vocabulary),
        shards={store_split(split): number for split, number in described["shards"].items()},
    )


def _summary(output: Path, plan: Plan) -> Iterator[str]:
    """Yields lines that say what the store contains, and how to train from it."""
    for task in plan.tasks:
        store = plan.store_of(task, output)
        for split, counts in read_json(store / METADATA)["splits"].items():
            line = (
                f"{store} {split}: {counts['documents']:,} documents, {counts['tokens']:,} tokens, "
                f"{counts['bytes']:,} bytes, {counts['words']:,} words; {counts['empty']:,} empty "
                f"documents left out, {counts['invalid_utf8']:,} with invalid UTF-8"
            )
            lost = share_lost(counts)
            if lost is not None:
                line += (
                    f"; {counts['unknown']:,} unknown tokens, {lost:.3%} of "
                    f"{counts['compared_bytes']:,} compared bytes lost"
                )
            yield line
            if skipped := counts.get("skipped_rows"):
                yield f"{store}: {skipped:,} rows left out (data.skip_bad_rows)"
        size = plan.descriptions[task]["vocabulary"]["size"]
    yield (
        f"to train from it, set data.corpus = 'store', data.stores = ('{output}',), "
        f"BlockRecurrentTransformer.vocab_size = {size}"
    )
