"""Evaluation: scores, loss by distance, how much the recurrent state helps, and reports.

May import `model`, `data`, `config`, `parallel`, `files` and `reporting`.
"""
