"""Block-Recurrent Transformer in JAX and Flax NNX."""

from block_recurrent.attention import SlidingWindowAttention
from block_recurrent.decoding import DecodingState
from block_recurrent.errors import UserError
from block_recurrent.full_attention import FullAttention
from block_recurrent.generation import Generator
from block_recurrent.model import BlockRecurrentTransformer
from block_recurrent.model_config import ModelConfig
from block_recurrent.model_file import load_model, save_model
from block_recurrent.recurrent_cell import RecurrentCell, scan_blocks
from block_recurrent.sampling import Sampling
from block_recurrent.saved_state import load_state, save_state
from block_recurrent.types import KeysValues, LayerState, ModelState

__version__ = "0.1.0"

__all__ = [
    "BlockRecurrentTransformer",
    "DecodingState",
    "FullAttention",
    "Generator",
    "KeysValues",
    "LayerState",
    "ModelConfig",
    "ModelState",
    "RecurrentCell",
    "Sampling",
    "SlidingWindowAttention",
    "UserError",
    "load_model",
    "load_state",
    "save_model",
    "save_state",
    "scan_blocks",
]
