"""What people see in a terminal: the entry of every command, and its progress.

May import `errors`, `freed_memory` and `files`.
"""
