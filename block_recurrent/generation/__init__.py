"""Generation: reads prompts and writes tokens.

May import `model`, `data` and `files`.
"""
