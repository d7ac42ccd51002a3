"""Every option of a run, checked where it is made, and gin files in and out.

`options` lists them all but those of the model (`model.config`). May import `model` and `files`.
"""
