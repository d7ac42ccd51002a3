"""Models by name: a file, a folder made for the Hugging Face Hub, or a repository on it."""

import json
import os.path
import re
from pathlib import Path
from typing import Any

from block_recurrent.errors import UserError, first_line

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.json"  # in a folder for the Hub
MODEL_TYPE = "block_recurrent"  # in its config.json
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name


def find_model(path: str | Path) -> Path:
    """The file of a model, or its folder.

    Args:
      path: a file or folder, which is returned, or the name of a repository on the Hugging Face
        Hub, such as 'owner/name'. Its model is downloaded unless the Hub's cache on this machine
        has the newest one; without a network, the cached one is taken.

    Raises:
      UserError: there is none of these.
    """
    name = str(path)
    # os.path takes what may not be looked at, and names that are too long, for absent.
    if os.path.exists(path) or name.endswith(".safetensors") or not REPOSITORY.fullmatch(name):
        return Path(path)
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise UserError(
            f"there is no file or folder {name}; to look for it on the Hugging Face Hub, pip "
            "install huggingface_hub (or this package with its extra [hub])"
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=[MODEL_FILE, CONFIG_FILE]))
    except Exception as error:  # of the network, of the Hub, or of the cache
        raise UserError(
            f"there is no file or folder {name}, and it cannot be loaded from the Hugging Face Hub "
            f"({first_line(error)}): check the name, the network, and for a private repository, "
            "HF_TOKEN"
        ) from error


def model_file(path: str | Path) -> Path:
    """The safetensors file of a model; see `find_model`.

    Raises:
      UserError: there is no such model, or the folder has no model.
    """
    found = find_model(path)
    if not os.path.isdir(found):
        return found
    if not os.path.isfile(found / MODEL_FILE):
        raise UserError(
            f"{path} has no {MODEL_FILE}: give a file or folder that python -m "
            "block_recurrent.export wrote, or the folder of a run as --workdir"
        )
    return found / MODEL_FILE


def folder_config(file: Path) -> dict[str, Any]:
    """Fields of `ModelConfig` in the config.json beside a model's file, where people edit them.

    Empty if the file is not the model of a folder for the Hub.

    Raises:
      AttributeError, KeyError, TypeError, ValueError: config.json is damaged.
    """
    path = file.with_name(CONFIG_FILE)
    if file.name != MODEL_FILE or not os.path.isfile(path):
        return {}
    content = json.loads(path.read_bytes())
    return content["model"] if content.get("model_type") == MODEL_TYPE else {}
