"""A sample of the text of a corpus, on which a vocabulary is trained."""

from collections.abc import Iterator

import numpy as np

from block_recurrent.data.documents import Documents

CHUNK_TOKENS = 2**16


def sample_text(documents: Documents, num_bytes: int) -> Iterator[str]:
    """Yields the text of documents in chunks, always the same ones.

    Args:
      documents: the documents, of any vocabulary that can decode.
      num_bytes: approximate size of the sample. A larger corpus is cut into chunks of 64 Ki tokens,
        of which some are chosen pseudo-randomly; a smaller one is read whole.

    Yields:
      Text without bytes that are not UTF-8.

    Raises:
      UserError: a document cannot be read, or its vocabulary cannot decode.
    """
    lengths = np.asarray(documents.lengths) - 1  # without the end tokens
    last = np.cumsum(-(-lengths // CHUNK_TOKENS))  # one more than the last chunk of each document
    chunks = np.arange(last[-1])
    if documents.num_bytes > num_bytes:
        np.random.default_rng(0).shuffle(chunks)
    read = 0
    for chunk in chunks.tolist():
        if read >= num_bytes:
            break
        document = int(np.searchsorted(last, chunk, side="right"))
        count = -(-int(lengths[document]) // CHUNK_TOKENS)
        start = (chunk - int(last[document]) + count) * CHUNK_TOKENS
        stop = min(start + CHUNK_TOKENS, int(lengths[document]))
        text = documents.vocabulary.decode(documents.tokens(document, start, stop))
        read += len(text)
        yield text.decode("utf-8", "ignore")
