"""The files of a corpus, also those in archives, and the splits that their paths name."""

import contextlib
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from io import IOBase
from pathlib import PurePosixPath

from block_recurrent.config.data_options import DataConfig
from block_recurrent.data.formats import archives
from block_recurrent.data.formats.compression import decompress, explain_damage
from block_recurrent.data.formats.rows import Share
from block_recurrent.data.formats.source_files import SourceFile, find_files, find_held_out
from block_recurrent.data.formats.suffixes import ARCHIVES, ROWS, format_of
from block_recurrent.data.globs import matches, or_below
from block_recurrent.data.held_out import NamedSplits, named_splits
from block_recurrent.data.split_names import Split
from block_recurrent.data.text_files import names_nothing

# What Hugging Face datasets has beside the files with the rows.
DESCRIPTIONS = ("readme.md", "dataset_dict.json", "dataset_info.json", "dataset_infos.json")
DESCRIPTIONS += ("state.json", "license", "license.md", "license.txt")
CACHES = "cache-"  # starts of the names of its intermediate results


class CorpusPaths:
    """The files of a corpus. A file in an archive has a path such as "a.tar/b.txt".

    Args:
      data: `path`, `glob`, `held_out` and `format` are used.

    Attributes:
      files: sorted by name. Beside files with rows, the descriptions that Hugging Face puts there
        (README.md, dataset_info.json, …) are left out.

    Raises:
      UserError: there are no such files, or `data.held_out` names nothing.
    """

    def __init__(self, data: DataConfig):
        self.data = data
        found = {file.name: file for file in find_files(data.path, data.glob)}
        self._archive = None  # its name, if data.path is one
        if list(found) == [PurePosixPath(data.path).name] and self.is_archive(*found):
            self._archive = next(iter(found))
        held_out = [data.held_out] if isinstance(data.held_out, str) else data.held_out
        self._held_out: dict[str, set[str]] = {}  # the files that each item of it names
        for item in held_out:
            named = {file.name: file for file in find_held_out(data.path, item, data.glob)}
            found, self._held_out[item] = found | named, set(named)
        self.files = self._without_descriptions([found[name] for name in sorted(found)])
        if not any(self.is_archive(file.name) for file in self.files):
            self._check_held_out(self._held_out)

    @functools.cached_property
    def splits(self) -> dict[str, Split | None]:
        """What the path of each file, and of each file in an archive, says; see `named`."""
        return dict(zip(self._sizes, self.named.splits, strict=True))

    @functools.cached_property
    def named(self) -> NamedSplits:
        """The splits of all files, and of those in archives, by their paths.

        Reads archives, and no other files.

        Raises:
          UserError: `data.held_out` names nothing, or an archive is damaged.
        """
        paths = [self._in_corpus(path) for path in self._sizes]
        chosen = {item: self._chosen(item, paths) for item in self._held_out}
        self._check_held_out(chosen)
        indices = set().union(*chosen.values()) if chosen else None
        return named_splits(paths, list(self._sizes.values()), indices)

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        """The sizes of all files that are not empty, and of those in archives."""
        found = {}
        for file in self.files:
            if self.is_archive(file.name):
                with explain_damage(file.name), contextlib.closing(file.open()) as stream:
                    found.update(self._list(file.name, stream))
            else:
                found[file.name] = file.size
        return {path: size for path, size in found.items() if size}

    def _list(self, name: str, stream: IOBase) -> Iterator[tuple[str, int]]:
        """The paths and sizes of the files in an archive."""
        for path, size, member in self.members(name, decompress(stream, name), Share()):
            if self.is_archive(path):
                yield from self._list(path, member)
            else:
                yield path, size

    def members(self, name: str, stream: IOBase, share: Share) -> Iterator[tuple[str, int, IOBase]]:
        """Path, size and stream of files in an archive: those of data.glob if it is data.path."""
        wanted = functools.partial(matches, glob="**/*")
        if name == self._archive:
            wanted = functools.partial(matches, glob=self.data.glob)
        kind = format_of(name, self.data.format)
        for path, size, member in archives.members(stream, name, kind, wanted, share):
            yield f"{name}/{path}", size, member

    def is_archive(self, name: str) -> bool:
        """Whether a file is an archive, by its suffix."""
        return format_of(name, self.data.format) in ARCHIVES.values()

    def _in_corpus(self, path: str) -> str:
        """The path in the corpus, which may be an archive."""
        return path if self._archive is None else path.removeprefix(f"{self._archive}/")

    def _chosen(self, item: str, paths: Sequence[str]) -> set[int]:
        """Which paths an item of `data.held_out` names."""
        files = self._held_out[item]
        inside = tuple(f"{file}/" for file in files if self.is_archive(file))
        return {
            index
            for index, (name, path) in enumerate(zip(self._sizes, paths, strict=True))
            if name in files or name.startswith(inside) or matches(path, or_below(item))
        }

    def _check_held_out(self, found: Mapping[str, Collection]):
        for item, names in found.items():
            if not names and not self._held_out[item]:
                raise names_nothing(item, self.data.path)

    def _without_descriptions(self, files: list[SourceFile]) -> list[SourceFile]:
        formats = {format_of(file.name, self.data.format) for file in files}
        if formats.isdisjoint(ROWS.values()):
            return files
        names = (file.name.rpartition("/")[2].lower() for file in files)
        kept = [
            file
            for file, name in zip(files, names, strict=True)
            if name not in DESCRIPTIONS and not name.startswith(CACHES)
        ]
        return kept or files
