"""Files that several rooms read and write: paths on disk or in a bucket, atomic writes, checksums.

May import `errors`.
"""
