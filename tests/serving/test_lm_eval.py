"""EleutherAI's lm-eval scores the served model as `evaluate` does."""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import jax
import pytest

from block_recurrent import Generator
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.evaluation.evaluator import Evaluator
from block_recurrent.parallel.sharding import Layout, make_mesh
from loopback import NAME, running
from tiny import TINY, split, variant_model

# lm-eval brings a hundred packages, so .ci/run installs it in an environment of its own.
PYTHON = os.environ.get("LM_EVAL_PYTHON") or (sys.executable if find_spec("lm_eval") else None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="LM_EVAL_PYTHON names no Python with lm-eval[api], as .ci/run installs"
    ),
]
TEXTS = {
    "long": "the state of a block is carried from one window to the next by gates; " * 40,
    "characters": "Größe, 漢字 and 🙂 in one line;\n" * 3 + "and no more",
    "short": "a",
}
TASK = """
task: local_text
dataset_path: json
dataset_kwargs:
  data_files:
    test: {documents}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: bits_per_byte
"""


def lm_eval(server, folder: Path) -> float:
    """Bits per byte of the documents, as lm-eval finds them."""
    documents = folder / "documents.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS.values()))
    (folder / "local_text.yaml").write_text(TASK.format(documents=documents))
    model = f"base_url={server.address}/v1/completions,model={NAME},tokenizer_backend=remote"
    model += ",custom_prefix_token_id=0,max_length=100000,num_concurrent=2"
    command = [PYTHON, "-m", "lm_eval", "--model=local-completions", f"--model_args={model}"]
    command += ["--tasks=local_text", f"--include_path={folder}", f"--output_path={folder}/out"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environment | offline, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = (folder / "out").rglob("results*.json")
    return json.loads(result.read_text())["results"]["local_text"]["bits_per_byte,none"]


def nats_of_ends(server) -> float:
    """The loss of the tokens that end the documents, which lm-eval does not count."""
    url, total = f"{server.address}/v1/completions", 0.0
    for text in TEXTS.values():
        tokens = [*ByteVocabulary().encode(text.encode()).tolist(), ByteVocabulary.end_id]
        asked = {"prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 0}
        (choice,) = httpx.post(url, json=asked, timeout=60).json()["choices"]
        total -= choice["logprobs"]["token_logprobs"][-1]
    return total


def test_bits_per_byte_are_those_of_evaluate(tmp_path):
    model = variant_model("fixed_skip")
    documents = ByteDocuments({name: text.encode() for name, text in TEXTS.items()})
    graphdef, params = split(model)
    layout = Layout(make_mesh(MeshConfig(), TINY, 2, jax.devices()[:1]))
    score = Evaluator(graphdef, documents, TINY.window_length, 2, 64, layout)(params)
    with running(Generator(model), tmp_path / "sessions") as server:
        found = lm_eval(server, tmp_path)
        ends = nats_of_ends(server) / math.log(2) / documents.num_bytes
    assert found + ends == pytest.approx(score.metrics()["bits_per_byte"], rel=1e-5)
