"""Documents that only a memory can answer: facts at the start, questions about them at the end."""

import numpy as np
from jaxtyping import Float32, Int64, Integer

from block_recurrent.data.documents import fingerprint
from block_recurrent.data.vocabularies import END, ByteVocabulary
from block_recurrent.errors import UserError

KEYS, FACTS = 26, 128  # that there are
KEY, DIGIT, FACT = (np.uint8(byte) for byte in b"A0\x80")
# Documents of each split, and how much longer their filler is than that of training.
SPLITS = {"train": (2**16, 1), "held_out": (256, 1), "far": (256, 10)}


class RecallDocuments:
    """Documents made up as they are read, always the same ones; as `Documents`.

    A document is facts, one of each key, then filler, and then, in another order, a letter for each
    key and its fact again. A fact is a byte, 128 + key · `values` + value. With 3 facts, the first
    saying that the value of key 2 is 15, and blanks that are not in it::

        \\xaf\\x92\\x85  50837…7412  B\\x92 C\\xaf A\\x85

    Only the answers count in the loss. Who has forgotten the facts is right in one of `values`.
    That a fact is a single token leaves nothing to learn but to remember.

    Args:
      split: a name in `SPLITS`.
      facts: of each document, one for each key.
      values: that a fact may have.
      filler: least and most bytes between facts and questions, uniform in the logarithm; ten times
        as many in the split 'far'.

    Raises:
      UserError: there are no such documents.
    """

    def __init__(self, split: str, facts: int, values: int, filler: tuple[int, ...]):
        if not (1 <= facts <= KEYS and 2 <= values and facts * values <= FACTS):
            raise UserError(
                f"data.recall_facts = {facts} and data.recall_values = {values}: choose 1 to "
                f"{KEYS} facts, and at least 2 values, with a product of at most {FACTS}"
            )
        if len(filler) != 2 or not 1 <= filler[0] <= filler[1]:
            raise UserError(
                f"data.recall_filler = {filler}: give the least and the most bytes, (1, 2048) for "
                "example"
            )
        self.facts, self.values, self.vocabulary = facts, values, ByteVocabulary()
        count, times = SPLITS[split]
        low, high = times * filler[0], times * filler[1] + 1
        self.fingerprint = fingerprint([f"recall {split} {facts} {values} {low} {high}"])
        self.names = [f"{split} {number}" for number in range(count)]
        draws = np.random.default_rng(self.fingerprint).random(count)
        self._fillers = (low * (high / low) ** draws).astype(np.int64)
        self.lengths: Int64[np.ndarray, " documents"] = self._fillers + 3 * facts + 1
        self.num_tokens = int(self.lengths.sum())
        self.num_bytes = self.num_tokens - count
        self.num_words, self.num_characters = 0, None  # it is no text

    def tokens(self, document: int, start: int, stop: int) -> Integer[np.ndarray, " length"]:
        rng = np.random.default_rng([self.fingerprint, document])
        keys, values = np.arange(self.facts), rng.integers(self.values, size=self.facts)
        facts = FACT + (self.values * keys + values).astype(np.uint8)
        stated, asked = (rng.permutation(keys) for _ in range(2))
        filler = DIGIT + rng.integers(10, size=self._fillers[document], dtype=np.uint8)
        questions = np.stack([KEY + asked.astype(np.uint8), facts[asked]], axis=1)
        text = np.concatenate([facts[stated], filler, questions.ravel()])
        return np.append(self.vocabulary.encode(text.tobytes()), np.uint16(END))[start:stop]

    def loss_weights(self, document: int, start: int, stop: int) -> Float32[np.ndarray, " length"]:
        length = int(self.lengths[document])
        places = np.arange(start, min(stop, length))
        to_end = length - 1 - places  # 1 at the last answer
        return ((to_end % 2 == 1) & (to_end < 2 * self.facts)).astype(np.float32)
