"""A synthetic corpus that tests memory: facts at the start of a document, questions at its end."""

import numpy as np
from jaxtyping import Float32, Int64, Integer

from block_recurrent.data.documents import fingerprint
from block_recurrent.data.vocabularies import ByteVocabulary
from block_recurrent.errors import UserError

MAX_FACTS, MAX_FACT_BYTES = 26, 128  # one fact per letter; facts are the bytes from 128
KEY, DIGIT, FACT = (np.uint8(byte) for byte in b"A0\x80")  # the first byte of each kind
# The number of documents of each split, and the factor by which their filler is longer.
SPLITS = {"train": (2**16, 1), "held_out": (256, 1), "far": (256, 10), "farther": (256, 80)}


class RecallDocuments:
    """`Documents` that are generated when they are read, and are always the same.

    A document states one fact per key, followed by filler. Then it asks for each key with a letter,
    in another order, and each question is followed by its fact. The fact "key k has value v" is the
    single byte 128 + k · `values` + v. Here is a document with 3 facts, of which the first says
    that key 2 has value 15; the spaces are not part of the document::

        \\xaf\\x92\\x85  50837…7412  B\\x92 C\\xaf A\\x85

    Only the answers count in the loss. A model that does not remember the fact guesses right with
    probability 1 / `values`. Since a fact is a single token, the model only has to learn to
    remember it.

    Args:
      split: a name in `SPLITS`.
      facts: number of facts per document, one for each key.
      values: number of values that a fact can have.
      filler: minimum and maximum number of bytes between facts and questions, log-uniform; 10
        times as long in the split 'far', and 80 times in 'farther'.

    Raises:
      UserError: the numbers are out of range.
    """

    def __init__(self, split: str, facts: int, values: int, filler: tuple[int, ...]):
        if not (1 <= facts <= MAX_FACTS and 2 <= values and facts * values <= MAX_FACT_BYTES):
            raise UserError(
                f"data.recall_facts = {facts} and data.recall_values = {values}: choose 1 to "
                f"{MAX_FACTS} facts, and at least 2 values, with a product of at most "
                f"{MAX_FACT_BYTES}"
            )
        if len(filler) != 2 or not 1 <= filler[0] <= filler[1]:
            raise UserError(
                f"data.recall_filler = {filler}: give the minimum and the maximum number of bytes, "
                "for example (1, 2048)"
            )
        self.facts, self.values, self.vocabulary = facts, values, ByteVocabulary()
        count, factor = SPLITS[split]
        low, high = factor * filler[0], factor * filler[1] + 1
        self.fingerprint = fingerprint([f"recall {split} {facts} {values} {low} {high}"])
        self.names = [f"{split} {number}" for number in range(count)]
        draws = np.random.default_rng(self.fingerprint).random(count)
        self._fillers = (low * (high / low) ** draws).astype(np.int64)
        self.lengths: Int64[np.ndarray, " documents"] = self._fillers + 3 * facts + 1
        self.num_tokens = int(self.lengths.sum())
        self.num_bytes = self.num_tokens - count
        self.text_lost = 0.0
        self.num_words, self.num_characters = 0, None  # this is not text

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        rng = np.random.default_rng([self.fingerprint, document])
        keys, values = np.arange(self.facts), rng.integers(self.values, size=self.facts)
        facts = FACT + (self.values * keys + values).astype(np.uint8)
        stated, asked = (rng.permutation(keys) for _ in range(2))
        filler = DIGIT + rng.integers(10, size=self._fillers[document], dtype=np.uint8)
        questions = np.stack([KEY + asked.astype(np.uint8), facts[asked]], axis=1)
        text = np.concatenate([facts[stated], filler, questions.ravel()])
        tokens = self.vocabulary.encode(text.tobytes())
        return np.append(tokens, np.uint16(self.vocabulary.end_id))[start:stop]

    def loss_weights(self, document: int, start: int, stop: int) -> Float32[np.ndarray, " length"]:
        length = int(self.lengths[document])
        to_end = length - 1 - np.arange(start, min(stop, length))  # 1 at the last answer
        return ((to_end % 2 == 1) & (to_end < 2 * self.facts)).astype(np.float32)
