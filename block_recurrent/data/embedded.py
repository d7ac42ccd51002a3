"""The default corpus, which every machine has: the source of Python's standard library."""

import sysconfig
from pathlib import Path

import numpy as np

from block_recurrent.data.documents import ByteDocuments, split_held_out
from block_recurrent.data.text_files import files_under
from block_recurrent.errors import UserError

INSTALLED = ("site-packages", "dist-packages", "__pycache__")
OF_THE_MACHINE = ("_sysconfigdata", "sitecustomize.", "usercustomize.")


def load_standard_library(held_out_per_mille: int = 20) -> dict[str, ByteDocuments]:
    """Every .py file of the running Python's standard library, as "train" and "held_out".

    One file is one document, named by its path in the library: the same name is held out under
    every version. Some systems leave out parts (Debian `test`), so figures compare only on equal
    installations. Left out are installed packages and files that name paths of the machine.

    Raises:
      UserError: this Python has no source files.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    found = files_under(folder, enter=_is_library) if folder.is_dir() else ()  # it may be a zip
    names = [name for name in found if _is_source(name)]
    documents = ByteDocuments({name: folder / name for name in names})
    documents = documents.select(np.flatnonzero(documents.lengths > 1))
    if len(documents.names) < 2:
        raise UserError(
            f"no source files of Python's standard library in {folder}: set data.corpus = "
            "'text_files' and data.path to a folder of text"
        )
    return split_held_out(documents, held_out_per_mille)


def _is_library(folder: str) -> bool:
    return folder not in INSTALLED and not folder.startswith("config-")


def _is_source(name: str) -> bool:
    return name.endswith(".py") and not name.rsplit("/", 1)[-1].startswith(OF_THE_MACHINE)
