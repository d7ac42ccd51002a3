"""A folder with a run's model for the Hugging Face Hub: model card, configuration, weights."""

import dataclasses
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

import block_recurrent
from block_recurrent.config.run_config import RunConfig
from block_recurrent.data.store_format import VOCABULARY_FILES
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError
from block_recurrent.interop.hub import CONFIG_FILE, MODEL_FILE, MODEL_TYPE
from block_recurrent.interop.model_file import save_model
from block_recurrent.model.transformer import BlockRecurrentTransformer, parameters

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

# The metrics of an evaluation that the card shows.
METRICS = {
    "bits_per_byte": "bits per byte",
    "bits_per_character": "bits per character",
    "bits_per_token": "bits per token",
    "accuracy": "fraction of tokens that were given the highest probability",
    "memory_worth": "bits per token that are lost if the recurrent state is cleared before every "
    "segment",
}


class HubModel(NamedTuple):
    """What the folder is made from.

    Attributes:
      model: the model.
      config: of its run.
      about: entries of the header of the model's file; see `save_model`.
      vocabulary: the content of the vocabulary's file; empty for bytes.
      held_out: the metrics of these weights on held-out documents; None if they were not evaluated.
    """

    model: BlockRecurrentTransformer
    config: RunConfig
    about: dict[str, str]
    vocabulary: bytes
    held_out: dict[str, Any] | None


def check_folder(folder: Path):
    """Raises UserError if the folder cannot be written, or huggingface_hub is not installed."""
    try:
        import huggingface_hub  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            "--format=hub needs huggingface_hub: pip install huggingface_hub (or this package with "
            "its extra [hub])"
        ) from error
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--output={folder} exists: name a new folder")
    if not folder.parent.is_dir():
        raise UserError(f"no folder {folder.parent} for --output={folder}: create it first")


def write_hub_folder(folder: Path, exported: HubModel, dtype: str = "float32"):
    """Writes the folder, whole or not at all.

    Raises:
      UserError: the folder cannot be written, or a parameter is too large for `dtype`.
    """
    check_folder(folder)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
        try:
            temporary.chmod(0o755)
            _write_files(temporary, folder.name, exported, dtype)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error.strerror}): name another folder") from error


def _write_files(folder: Path, name: str, exported: HubModel, dtype: str):
    about = exported.about
    path = folder / MODEL_FILE
    save_model(path, exported.model, dtype, exported.vocabulary, **about)
    described = json.loads(about.get("vocabulary_description", "{}"))
    config = {
        "architectures": [type(exported.model).__name__],
        "model_type": MODEL_TYPE,
        "model": dataclasses.asdict(exported.model.config),
        "vocabulary": described,
        "segment_length": exported.config.train.segment_length,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if exported.vocabulary:
        (folder / VOCABULARY_FILES[described["kind"]]).write_bytes(exported.vocabulary)
    card = f"---\n{_metadata(name, exported)}\n---\n\n{_text(name, exported)}"
    (folder / "README.md").write_text(card, encoding="utf-8")


def _metadata(name: str, exported: HubModel) -> "ModelCardData":
    """The metadata of the card. As text, it is YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    corpus = exported.config.data.corpus
    results = [
        EvalResult("text-generation", corpus, corpus, metric, value, dataset_split="held_out")
        for metric, value in _numbers(exported).items()
    ]
    return ModelCardData(
        library_name="block_recurrent",
        pipeline_tag="text-generation",
        tags=["jax", "flax", "block-recurrent-transformer"],
        model_name=name,
        eval_results=results or None,
    )


def _numbers(exported: HubModel) -> dict[str, float]:
    """The metrics for the card that the evaluation has."""
    found = {metric: (exported.held_out or {}).get(metric) for metric in METRICS}
    return {metric: value for metric, value in found.items() if value is not None}


def _text(name: str, exported: HubModel) -> str:
    model, train, about = exported.model.config, exported.config.train, exported.about
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters(exported.model)))
    fields = [f"| `{key}` | `{value!r}` |" for key, value in dataclasses.asdict(model).items()]
    is_bytes = about.get("vocabulary") == ByteVocabulary.name
    tokens = "bytes" if is_bytes else f"text in a vocabulary of {model.vocab_size:,} tokens"
    steps = f"{train.batch_size} × {train.segment_length} tokens"
    rest = f"the optimizer `{exported.config.optimizer.name}` and the seed {train.seed}"
    return f"""\
# {name}

A [Block-Recurrent Transformer](https://arxiv.org/abs/2203.07852): a language model that reads a
document of any length in constant memory. It has {count:,} parameters, and reads {tokens}.

<!-- Add what the model is for, its training data and license, and its limitations. -->

## Use

With the package block_recurrent (version {block_recurrent.__version__}). In place of OWNER/NAME,
the path of this folder works too.

```sh
python -m block_recurrent.generate --model=OWNER/NAME --prompt='Once'
```

```python
from block_recurrent import Generator, load_model, model_vocabulary

model, about = load_model("OWNER/NAME")
vocabulary = model_vocabulary("OWNER/NAME", about)
generator = Generator(model, segment_length=int(about["segment_length"]))
(tokens,) = generator.generate([vocabulary.encode(b"Once")], num_tokens=100)
print(vocabulary.decode(tokens).decode("utf-8", "replace"))
```

## Evaluation

{_evaluation(exported)}

## Training

Step {int(about["step"]):,} of {train.num_steps:,}, each of {steps}, on the corpus
`{exported.config.data.corpus}`, with {rest}.

| option of the model | value |
|---|---|
{chr(10).join(fields)}
"""


def _evaluation(exported: HubModel) -> str:
    about, numbers = exported.about, _numbers(exported)
    if not numbers:
        return (
            "These weights were not evaluated in their run. `python -m block_recurrent.evaluate` "
            f"with the same `--step={about['step']}`, `--weights={about['weights']}` and "
            f"`--average={about['average']}` measures them."
        )
    limit = exported.config.train.eval_tokens
    part = f", of which at most {limit:,} tokens are read" if limit else ""
    rows = "\n".join(f"| {METRICS[metric]} | {value:.4f} |" for metric, value in numbers.items())
    return f"On held-out documents of the corpus{part}:\n\n| metric | value |\n|---|---:|\n{rows}"
