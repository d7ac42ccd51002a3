"""Texts during training: their prompts, and how they are shown."""

import jax
import numpy as np
import pytest

from block_recurrent import UserError
from block_recurrent.config.device_options import MeshConfig
from block_recurrent.config.train_options import TrainConfig
from block_recurrent.data.documents import ByteDocuments
from block_recurrent.data.vocabularies import ByteVocabulary, OtherVocabulary
from block_recurrent.parallel.sharding import Layout, make_mesh
from block_recurrent.training.text_samples import SAMPLING, TextSample, text_sampler
from tiny import TINY, make_model, split, variant_model

TEXT = "Ein Café am See, " * 3 + "Größe 123 und noch viel mehr"
DOCUMENTS = {"short": b"short", "long": TEXT.encode(), "shorter": b""}


def sampler(vocabulary=None, variant="fixed_skip", **train):
    documents = ByteDocuments(DOCUMENTS)
    documents.vocabulary = vocabulary or ByteVocabulary()
    layout = Layout(make_mesh(MeshConfig(), TINY, 1, jax.devices()[:1]))
    train = TrainConfig(**{"sample_tokens": 12, "segment_length": 16} | train)
    return text_sampler(*split(variant_model(variant)), train, documents, layout)


class Lacking(ByteVocabulary):
    """A vocabulary without ~."""

    unknown_id = 2

    def encode(self, text):
        return np.where(np.frombuffer(text, np.uint8) == ord("~"), 2, 9)


@pytest.mark.slow
def test_texts_depend_on_the_parameters_and_compile_once():
    write = sampler(sample_prompt="é")
    params = [split(model)[1] for model in (variant_model("fixed_skip"), make_model(1))]
    first, other, again = (write(params[index]) for index in (0, 1, 0))
    assert again == first and other.text != first.text
    assert first.prompt == other.prompt == "é"
    assert write.generator._write._cache_size() == 1
    assert write.generator.params is None
    write.generator.params = params[0]
    prompt = np.add(np.frombuffer("é".encode(), np.uint8), 3)
    [tokens] = write.generator.generate([prompt], 12, sampling=SAMPLING, stop_tokens=[1])
    assert ByteVocabulary().decode(tokens).decode("utf-8", "replace") == first.text


def test_the_longest_document_gives_the_prompt():
    prompt = sampler().prompt
    assert ByteVocabulary().decode(prompt) == TEXT.encode()[:64]


def test_a_character_is_not_cut_between_prompt_and_text(monkeypatch):
    write = sampler(sample_prompt="café")
    encoded, write.prompt = write.prompt, write.prompt[:-1]
    monkeypatch.setattr(
        write.generator, "generate", lambda *_, **__: [encoded[-1:].astype(np.int32)]
    )
    assert write(split(variant_model("fixed_skip"))[1]) == ("caf", "é")


def test_a_segment_of_full_attention():
    assert sampler(variant="full_attention").generator.block_length == 16


def test_no_texts():
    assert sampler(sample_tokens=0) is None


def test_a_vocabulary_that_cannot_decode_does_not_stop_the_run(capsys):
    assert sampler(OtherVocabulary(260, 1)) is None
    out = capsys.readouterr().out
    assert out.startswith("no texts at evaluations: the token store") and out.count("\n") == 1


def test_a_prompt_outside_the_vocabulary():
    with pytest.raises(
        UserError, match=r"^train.sample_prompt has characters that .* vocabulary \(~\): "
    ):
        sampler(Lacking(), sample_prompt="a~")


def test_a_note_is_short_and_safe_for_a_terminal():
    note = TextSample("x" * 100 + "\n", "\x1b[31m\t" + "y" * 200 + "\n" * 9).note()
    first, *rest = note.split("\n")
    assert first == f"after '{'x' * 39}\\n' the model writes"
    assert rest[0].startswith("    \\x1b[31m ") and rest[0].endswith("y…") and len(rest[0]) == 100
    assert len(rest) == 7 and rest[-1] == "    …"
    assert TextSample("the end", "").note() == "after 'the end' the model writes nothing"
