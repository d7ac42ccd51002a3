"""Serving: many requests at once, sessions that are kept, and the HTTP interface.

May import `generation`, `data` and `files`. Starlette and uvicorn are the extra ``[serve]``.
"""
