"""Every test runs with the shapes of all signatures checked."""

from jaxtyping import install_import_hook

install_import_hook("block_recurrent", "beartype.beartype")
