"""Prompts in, tokens out.

May import `model`, `data` and `files`.
"""
