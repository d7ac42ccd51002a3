"""Every option of a run, and gin files.

`options` declares all options except those of the model (`model.config`); `fields` checks them when
they are made. `gin_files` finds and parses gin files, and `run_config` turns their bindings into a
`RunConfig` and back. May import `model` and `files`.
"""
