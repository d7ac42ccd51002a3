"""File access: paths on disk or in a bucket, atomic writes, checksums, locks.

May import `errors`.
"""
