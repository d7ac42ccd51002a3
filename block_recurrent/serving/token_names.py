"""How single tokens are written in the API's log-probabilities."""

from block_recurrent.data.vocabularies import Vocabulary


class TokenNames:
    """The text of each token, different for different tokens.

    A token that is only part of a character is written like ``bytes:\\xe2\\x82``, and one
    without text, such as the end of a document, like ``token_id:1``.
    """

    def __init__(self, vocabulary: Vocabulary):
        self._vocabulary, self._names = vocabulary, {}
        # Behind another token, since the first piece of a text loses the space before it.
        self._before = vocabulary.encode(b"a").tolist()[-1:]
        self._skipped = len(vocabulary.decode(self._before))

    def __getitem__(self, token: int) -> str:
        if token not in self._names:
            text = self._vocabulary.decode([*self._before, token])[self._skipped :]
            try:
                self._names[token] = text.decode() or f"token_id:{token}"
            except UnicodeDecodeError:
                self._names[token] = "bytes:" + "".join(f"\\x{byte:02x}" for byte in text)
        return self._names[token]
