"""Generation: reading prompts and writing tokens.

May import `model`, `data` and `files`.
"""
