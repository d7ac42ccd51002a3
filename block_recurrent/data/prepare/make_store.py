"""Makes a token store from files, or from a seqio Task or Mixture."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from block_recurrent.config.data_options import DataConfig, PrepareConfig
from block_recurrent.console.progress import PrepareProgress
from block_recurrent.data.prepare.lost_text import check_lost_text
from block_recurrent.data.prepare.partial_folder import is_prepared, partial_folder
from block_recurrent.data.prepare.plan import Plan, make_plan, store_split
from block_recurrent.data.prepare.shard_workers import Setup, write_shards
from block_recurrent.data.prepare.source import Sources, reads_files
from block_recurrent.data.prepare.store_progress import StoreProgress
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
      config: the configuration that the sources were opened with.
      data: likewise.
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
    num_finished = sum(shard.is_finished for shard in shards)
    if num_finished:
        print(f"{num_finished} of {len(shards)} shards are already complete")
    if num_finished < len(shards):
        for line in about:
            print(line)
        for task, source in plan.tasks.items():
            source.begin(plan.store_of(task, folder))
        _write(shards, plan, config, data)
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
    sizes = [plan.tasks[shard.task].size(shard) for shard in shards]
    with PrepareProgress() as display:
        progress = StoreProgress(shards, sizes, config.allow_lossy_vocabulary, display.update)
        num_processes = min(config.num_processes or os.cpu_count() or 1, len(progress.missing))
        display.note(f"writing {len(progress.missing)} shards, {num_processes} at a time")
        write_shards(plan.tasks, setup, num_processes, progress)


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
