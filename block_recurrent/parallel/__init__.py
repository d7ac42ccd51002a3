"""Many devices and many processes: the mesh, sharding rules, and who does what once for all.

May import `config` and `model`.
"""
