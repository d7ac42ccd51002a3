"""Evaluation: scores, loss by distance, the benefit of the recurrent state, and reports.

May import `model`, `data`, `config`, `parallel`, `files` and `reporting`.
"""
