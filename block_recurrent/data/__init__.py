"""Documents to batches: corpora, vocabularies, token stores, and the lanes that feed training.

May import `config` and `files`. Token stores are written in `data.prepare`.
"""
