"""Counts of many documents at once equal those of each."""

import numpy as np
import pytest

from block_recurrent.data.documents import TextCounter
from block_recurrent.data.prepare.document_batch import DocumentBatch


@pytest.mark.parametrize("seed", range(20))
def test_counts_of_pieces_of_documents(seed):
    """Pieces of any length, also none; taken at any moment."""
    rng = np.random.default_rng(seed)
    batch, taken, expected, tokens = DocumentBatch(), [], [], []
    for _ in range(40):
        counter, lengths = TextCounter(), np.zeros(2, int)
        for _ in range(rng.integers(4)):
            text = "".join(rng.choice(list("ab é\n"), rng.integers(6))).encode()
            ids = np.arange(rng.integers(4), dtype=np.uint16)
            batch.add(ids, text)
            counter.add(text)
            lengths += len(ids), len(text)
            tokens.extend(ids)
            if rng.random() < 0.2:
                taken.append(batch.take())
        batch.end_document()
        expected.append([*lengths, counter.words])
        if rng.random() < 0.2:
            taken.append(batch.take())
    taken.append(batch.take())
    assert np.concatenate([one.documents for one in taken]).tolist() == expected
    assert np.concatenate([one.tokens for one in taken]).tolist() == tokens
