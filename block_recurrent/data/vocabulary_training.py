"""Training of vocabularies from which every text comes back."""

import io
from collections.abc import Iterable, Iterator, Sequence

from block_recurrent.data.tokenizer_vocabulary import END_TOKENS
from block_recurrent.errors import UserError, first_line

BYTES = 256
MAX_LINE = 4000  # characters; SentencePiece leaves out longer lines


def train_bpe(
    texts: Iterable[str], size: int, special: Sequence[str] = (), *, show_progress: bool = False
) -> bytes:
    """Trains a byte-level tokenizer, such as GPT-2's.

    Args:
      texts: the text to train on.
      size: number of ids, at most: a small text has fewer tokens.
      special: names of more special tokens, which no text contains.
      show_progress: whether to show the progress on standard error.

    Returns:
      The content of a tokenizer.json, whose id 0 is the end of a document.

    Raises:
      UserError: the size is smaller than the number of bytes and special tokens.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    special = [END_TOKENS[0], *special]
    if size < BYTES + len(special):
        raise UserError(
            f"--size={size} leaves no room for {BYTES} bytes and {len(special)} special tokens: "
            f"give at least {BYTES + len(special)}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str().encode()


def train_unigram(texts: Iterable[str], size: int, special: Sequence[str] = ()) -> bytes:
    """Trains a SentencePiece unigram model that keeps white space, and unknown characters as bytes.

    Only the character ▁ (U+2581), by which SentencePiece writes spaces, becomes a space.

    Args:
      texts: the text to train on.
      size: number of ids, at most: a small text has fewer pieces.
      special: names of more special tokens, which no text contains.

    Returns:
      The content of a .model file. Its ids are those of T5: padding 0, end 1, unknown 2.

    Raises:
      UserError: the size is too small for the characters of the text.
    """
    import sentencepiece

    model, failures = io.BytesIO(), []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts, failures),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n"],
            control_symbols=list(special),
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from error
        raise UserError(
            f"SentencePiece cannot train a model of --size={size} on this text "
            f"({first_line(error)}): give a larger size, or more text"
        ) from error
    return model.getvalue()


def _lines(texts: Iterable[str], failures: list[BaseException]) -> Iterator[str]:
    """Lines with their ends, in parts if they are long.

    Errors of the texts are also appended to `failures`, because SentencePiece hides them.
    """
    try:
        for text in texts:
            for line in text.replace("\0", "").splitlines(keepends=True):
                for start in range(0, len(line), MAX_LINE):
                    yield line[start : start + MAX_LINE]
    except (Exception, KeyboardInterrupt) as error:
        failures.append(error)
        raise
