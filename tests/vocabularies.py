"""Small vocabularies of every kind, trained in the process that needs them."""

import functools
import io
import random

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

WORDS = "the state of a block is carried from one window to the next by gates naïve 雪 “so”".split()
LINES = [" ".join(random.Random(i).choices(WORDS, k=9)) for i in range(99)]

# Ids of special pieces: T5's, the defaults of SentencePiece, others, and a model without an end.
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ODD_IDS = {"pad_id": 5, "eos_id": 7, "unk_id": 3, "bos_id": 4}
NO_END = {"eos_id": -1, "bos_id": -1}
# Options of a model from which every text comes back.
LOSSLESS = {
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
}


@functools.cache
def sentencepiece_model(**options) -> bytes:
    """A SentencePiece model with the trainer's defaults, except for `options`."""
    model = io.BytesIO()
    defaults = {"vocab_size": 400, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, **defaults | options
    )
    return model.getvalue()


def byte_level_tokenizer(special: tuple[str, ...] = ("<|endoftext|>",)) -> tokenizers.Tokenizer:
    """A byte-level tokenizer, such as GPT-2's."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def byte_fallback_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer whose unknown characters are tokens of single bytes, such as Llama 2's."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["▁", *"abcdefghijklmnopqrstuvwxyz", "th", "the", "▁the"]
    ids = {name: number for number, name in enumerate(names)}
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    model = models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def word_piece_tokenizer() -> tokenizers.Tokenizer:
    """A tokenizer that ignores case and has no end token, such as BERT's."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer
