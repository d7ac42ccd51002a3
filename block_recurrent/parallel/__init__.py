"""Many devices and many processes: the mesh, sharding rules, and what only one process does.

May import `config` and `model`.
"""
