"""Writes token stores from seqio Tasks; the only code that imports TensorFlow.

May import the rest of `data`, `config`, `console` and `files`.
"""
