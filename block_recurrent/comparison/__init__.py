"""Comparing runs with each other: their options, their metrics, and runs of several seeds.

May import everything but the commands.
"""
