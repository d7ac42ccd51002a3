"""The command line: arguments and errors of the commands, and progress bars.

May import `errors`, `freed_memory` and `files`.
"""
