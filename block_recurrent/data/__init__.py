"""From documents to batches: corpora, vocabularies, token stores, and lanes.

May import `config` and `files`. Token stores are written in `data.prepare`.
"""
