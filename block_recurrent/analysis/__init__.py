"""Analysis of recurrent layers: their gates, attention and states along a text.

May import `model`, `data`, `reporting`, `generation` and `evaluation`.
"""
