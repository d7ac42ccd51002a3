"""What a user sees in the terminal: arguments and errors of the commands, and progress bars.

May import `errors`, `freed_memory` and `files`.
"""
