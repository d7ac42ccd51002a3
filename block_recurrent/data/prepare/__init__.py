"""Writes token stores from seqio Tasks. No other room imports TensorFlow.

May import the rest of `data`, `config`, `console` and `files`.
"""
