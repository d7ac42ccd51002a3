"""Block-Recurrent Transformer in JAX and Flax NNX."""

from block_recurrent.data.vocabulary_storage import model_vocabulary
from block_recurrent.errors import UserError
from block_recurrent.freed_memory import keep_freed_memory_on_cpu
from block_recurrent.generation.decoding import DecodingState
from block_recurrent.generation.generator import Generator
from block_recurrent.generation.sampling import Sampling
from block_recurrent.generation.saved_state import load_state, save_state
from block_recurrent.interop.model_file import load_model, save_model
from block_recurrent.model.attention import SlidingWindowAttention
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.full_attention import FullAttention
from block_recurrent.model.recurrent_cell import RecurrentCell, scan_blocks
from block_recurrent.model.transformer import BlockRecurrentTransformer
from block_recurrent.types import KV, KeysValues, LayerState, ModelState

__version__ = "0.1.0"

keep_freed_memory_on_cpu()  # before JAX looks for devices

__all__ = [
    "BlockRecurrentTransformer",
    "DecodingState",
    "FullAttention",
    "Generator",
    "KV",
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
    "model_vocabulary",
    "save_model",
    "save_state",
    "scan_blocks",
]
