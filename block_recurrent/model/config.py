"""The architecture options of a model."""

import dataclasses
from typing import Annotated, Literal

from block_recurrent.errors import UserError
from block_recurrent.fields import Range, checked

# Fields that change neither a model's parameters nor its outputs without dropout.
NON_ARCHITECTURE_FIELDS = ("dropout_rate", "remat", "attention_kernel")

# Choices that are also arguments of the public modules.
Gate = Literal["fixed", "lstm", "gru", "selective"]
Configuration = Literal["dual", "single", "skip"]
Kernel = Literal["xla", "pallas", "auto"]
Positions = Literal["t5", "rope"]
Dtype = Literal["float32", "bfloat16"]


@checked
@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture: `BlockRecurrentTransformer.…` in a gin file. The defaults are the paper's.

    Attributes:
      num_layers: number of layers.
      layer: kind of layer: 'transformer', or 'lstm' (a baseline without attention: each layer is an
        LSTM cell of width D; options of attention, cell and feed-forward network have no effect).
      embedding_size: width D of the residual stream and of a state vector.
      num_heads: attention heads H of every layer.
      head_size: width K of a head.
      mlp_dim: hidden units F of the feed-forward layers.
      gated_ffn: whether the feed-forward layers are gated (SwiGLU), with two thirds of the hidden
        units, instead of relu. The cell always uses relu. Not part of the paper.
      vocab_size: rows of the embedding, which is also the output layer.
      ngram_rows: rows of each of the hashed embeddings of 2-, 3- and 4-grams, which are added to
        the embedding of each token; 0: none. Not part of the paper.
      window_length: W, in tokens: the length of a block, and how far back a token sees.
      attention: 'sliding' (to the W previous tokens), or 'full' (to all previous tokens of the
        segment; nothing is carried to the next segment, and documents may start every W tokens).
      recurrent_layers: indices of the layers with a recurrent cell; negative ones count from the
        top. Empty for the Transformer-XL and sliding-window baselines.
      num_states: state vectors S of a recurrent layer.
      gate: how the states are updated: 'fixed' (a learned moving average), 'lstm', 'gru', or
        'selective' ('fixed', but each state vector may keep itself; not part of the paper).
      configuration: where the cell has gates: 'dual' (after the projection and after the
        feed-forward network), 'single' (after the feed-forward network, no projection), or 'skip'
        (after the projection, no feed-forward network); Figure 2 of the paper.
      feedback: whether every layer attends to the state of the last recurrent layer; the layers
        then run block by block.
      attention_kernel: implementation of the attention of tokens and states; the results agree up
        to rounding. 'xla'; 'pallas': fused kernels that never write the W × 2W weights to memory
        (on a GPU, W and, in layers that read states, S must be multiples of 16, and K must be 16,
        32, 64 or 128; on a single TPU, all must be multiples of 128; a CPU interprets the kernels,
        for tests); or 'auto': 'pallas' on a GPU in bfloat16 in layers whose sizes it supports, else
        'xla'. (In float32, and on a TPU, the kernels have not been run yet.)
      positions: 't5' (learned relative bias) or 'rope'.
      dropout_rate: fraction dropped, in training.
      remat: what the backward pass recomputes instead of storing it: 'none', 'attention' (the
        attention weights of the tokens), or 'layer' (everything inside a layer).
      dtype: type of the computation: 'float32' or 'bfloat16'.
      param_dtype: type of the parameters: 'float32' or 'bfloat16', which takes half the memory, but
        loses updates that are smaller than about 1/256 of a parameter.

    Raises:
      UserError: a field has a wrong name, type or value, or fields contradict each other.
    """

    num_layers: Annotated[int, "layers", Range(1)] = 12
    layer: Literal["transformer", "lstm"] = "transformer"
    embedding_size: Annotated[int, "dimensions", Range(1)] = 1024
    num_heads: Annotated[int, "heads", Range(1)] = 8
    head_size: Annotated[int, "dimensions", Range(1)] = 128
    mlp_dim: Annotated[int, "units", Range(1)] = 4096
    gated_ffn: bool = False
    vocab_size: Annotated[int, "token ids", Range(1)] = 260
    ngram_rows: Annotated[int, "rows", Range(0)] = 0
    window_length: Annotated[int, "tokens", Range(1)] = 512
    attention: Literal["sliding", "full"] = "sliding"
    recurrent_layers: Annotated[tuple[int, ...], "layer indices"] = (-3,)
    num_states: Annotated[int, "vectors", Range(0)] = 512
    gate: Gate = "fixed"
    configuration: Configuration = "skip"
    feedback: bool = False
    attention_kernel: Kernel = "auto"
    positions: Positions = "t5"
    dropout_rate: Annotated[float, "fraction", Range(0, below=1)] = 0.05
    remat: Literal["none", "attention", "layer"] = "none"
    dtype: Dtype = "float32"
    param_dtype: Dtype = "float32"

    def __post_init__(self):
        self._check_recurrent_layers()
        if self.attention_kernel == "pallas" and self.attention == "full":
            raise UserError(
                "attention_kernel = 'pallas' needs attention = 'sliding': with attention = 'full' "
                "set attention_kernel = 'xla'"
            )
        if self.feedback and not self.recurrent_layers:
            raise UserError("feedback = True needs at least one index in recurrent_layers")
        if self.ngram_rows and self.attention == "full":
            raise UserError(
                "ngram_rows needs attention = 'sliding': with attention = 'full', which carries "
                "nothing from segment to segment, set ngram_rows = 0"
            )
        if self.ngram_rows and self.window_length < 3:
            raise UserError(
                f"ngram_rows needs a window_length of at least 3, not {self.window_length}"
            )
        check_head_size(self.positions, self.head_size)

    def _check_recurrent_layers(self):
        if not self.recurrent_layers:
            return
        for index in self.recurrent_layers:
            if not -self.num_layers <= index < self.num_layers:
                raise UserError(
                    f"recurrent_layers names layer {index}, but the model has num_layers = "
                    f"{self.num_layers}: choose from {-self.num_layers} to {self.num_layers - 1}"
                )
        if len(self.recurrent_indices) < len(self.recurrent_layers):
            raise UserError(
                f"recurrent_layers = {self.recurrent_layers} names a layer twice, since the model "
                f"has {self.num_layers}: write {self.recurrent_indices}"
            )
        if self.num_states == 0:
            raise UserError(
                "num_states = 0: a recurrent layer needs at least 1 (for a model without recurrent "
                "layers, set recurrent_layers = ())"
            )
        if self.attention == "full":
            raise UserError(
                "a recurrent layer needs attention = 'sliding': with attention = 'full' "
                "set recurrent_layers = ()"
            )
        if self.layer == "lstm":
            raise UserError("layer = 'lstm' has no recurrent cells: set recurrent_layers = ()")

    @property
    def has_recurrent_state(self) -> bool:
        """Whether the model carries more than keys and values of tokens."""
        return self.layer == "lstm" or bool(self.recurrent_layers)

    @property
    def recurrent_indices(self) -> tuple[int, ...]:
        """Indices of the recurrent layers, from the bottom, ascending."""
        return tuple(sorted({index % self.num_layers for index in self.recurrent_layers}))

    @property
    def segment_is_context(self) -> bool:
        """Whether a token sees its whole segment and nothing before it: full attention."""
        return self.attention == "full"

    def context_length(self, segment_length: int | None) -> int:
        """The most tokens that a layer sees: the window or, with full attention, the segment.

        Raises:
          UserError: with full attention, the segment length is missing or not a multiple of W.
        """
        if not self.segment_is_context:
            return self.window_length
        if not segment_length or segment_length % self.window_length:
            raise UserError(
                f"segment_length = {segment_length}: a model with attention = 'full' needs a "
                f"multiple of its window_length {self.window_length}"
            )
        return segment_length


def check_head_size(positions: str, head_size: int):
    """Raises UserError if heads of this size have no such positions: rotation needs pairs."""
    if positions == "rope" and head_size % 2:
        raise UserError(f"positions = 'rope' needs an even head_size, not {head_size}")
