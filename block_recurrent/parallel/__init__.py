"""Many devices and processes: the mesh, sharding rules, and what only the main process does.

May import `config` and `model`.
"""
