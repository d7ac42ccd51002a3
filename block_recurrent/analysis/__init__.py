"""Analysis of recurrent layers: gates, attention and states along a text.

May import `model`, `data` and `reporting`.
"""
