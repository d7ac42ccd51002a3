"""File access that several rooms share: paths on disk or in a bucket, writes, checksums, locks.

May import `errors`.
"""
