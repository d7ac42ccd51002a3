"""Every option of a run, and gin files.

`train_options`, `data_options` and `device_options` declare all options except those of the model
(`model.config`), and `block_recurrent.fields` checks them when they are made. `gin_files` finds and
parses gin files, and `run_config` turns their bindings into a `RunConfig` and back. `changes` says
what may change between two starts of a run. May import `model` and `files`.
"""
