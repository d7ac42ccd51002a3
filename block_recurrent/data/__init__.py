"""Documents to batches: corpora, vocabularies, token stores, and the lanes that feed training.

May import `config` and `files`. What writes token stores is in `data.prepare`.
"""
