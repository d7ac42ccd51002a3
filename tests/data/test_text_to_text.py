"""From text to a store, a run and new text, with the ids and the gaps of a foreign vocabulary."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import pytest

import block_recurrent.generate
from block_recurrent.config.data_options import DataConfig
from block_recurrent.config.run_config import RunConfig
from block_recurrent.config.train_options import OptimizerConfig, TrainConfig
from block_recurrent.data.vocabulary_storage import load_vocabulary
from preparing import ONE_PROCESS, TEXTS, bind, write_texts
from runs import SharingTrainer
from tiny import TINY
from vocabularies import sentencepiece_model

SENTENCE = "the state of a block"
VERSE = "the 山 of 水 is a 月\n"
ALLOWED = bind(prepare__allow_lossy_vocabulary=True)


@pytest.fixture
def generate(run_command):
    """Runs the command in this process: status, standard output and standard error."""
    return functools.partial(run_command, block_recurrent.generate.main, "--workdir=run")


@pytest.fixture
def vocabulary(place):
    """SentencePiece's defaults: unknown 0, begin 1, end 2; line ends become spaces."""
    (place / "my.model").write_bytes(sentencepiece_model())
    found = load_vocabulary("my.model")
    assert (found.unknown_id, found.end_id) == (0, 2)
    return found


def train(vocabulary, num_steps: int):
    model = dataclasses.replace(TINY, num_layers=2, vocab_size=vocabulary.size)
    steps = {"num_steps": num_steps, "log_every_steps": num_steps, "eval_every_steps": num_steps}
    options = TrainConfig(batch_size=4, segment_length=32, sample_tokens=0, **steps)
    optimizer = OptimizerConfig(learning_rate=0.05, warmup_steps=5)
    data = DataConfig("store", stores=("store",))
    config = RunConfig(model=model, train=options, optimizer=optimizer, data=data)
    assert SharingTrainer(config, Path("run")).run()


@pytest.mark.slow
def test_a_model_stops_at_the_end_of_its_vocabulary(place, prepare, generate, vocabulary):
    write_texts(place / "texts", {f"{i}.txt": SENTENCE.encode() for i in range(60)})
    prepare("store", *TEXTS, *bind(prepare__vocabulary="my.model"))
    train(vocabulary, 60)
    (place / "store").rename(place / "moved")
    (place / "my.model").unlink()
    prompt = SENTENCE[:9]
    status, out, err = generate(f"--prompt={prompt}", "--temperature=0", "--num_tokens=300")
    assert (status, prompt + out, err) == (0, SENTENCE, "")


@pytest.mark.slow
def test_characters_that_a_vocabulary_lacks_are_told(place, run, prepare, generate, vocabulary):
    write_texts(place / "texts", {f"{i}.txt": VERSE.encode() * 20 for i in range(12)})
    options = *TEXTS, *bind(prepare__vocabulary="my.model")
    status, _, err = run("--output=store", *options, *ONE_PROCESS)
    assert status == 2 and "the vocabulary does not keep the text of text_files, split" in err
    out = prepare("store", *options, *ALLOWED)
    unknown = re.findall(r"; ([\d,]+) unknown tokens, ", out)
    assert sum(int(each.replace(",", "")) for each in unknown) == 3 * 20 * 12
    train(vocabulary, 1)
    logged = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    lost = [line["text_lost"] for line in logged if "bits_per_byte" in line]
    assert lost and all(each == pytest.approx(0.4, abs=0.2) for each in lost)
    status, out, err = generate("--prompt=the 山 of 水 is", "--num_tokens=5")
    assert (status, out) == (2, "") and err == (
        "error: the prompt has characters that are not in the model's vocabulary (山 水): "
        "remove or replace them\n"
    )
