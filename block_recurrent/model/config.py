"""Every size and choice of the architecture."""

import dataclasses
from typing import Annotated, Literal

from block_recurrent.errors import UserError

# Fields that change neither a model's parameters nor what it computes of tokens.
NON_ARCHITECTURE_FIELDS = ("dropout_rate", "remat", "attention_kernel")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What `BlockRecurrentTransformer.…` in a gin file sets. The defaults are the paper's.

    Attributes:
      num_layers: layers.
      layer: what they are: 'transformer', or 'lstm' (a baseline without attention: an LSTM cell of
        width D in each; sizes and choices of attention, cell and feed-forward then say nothing).
      embedding_size: width D of the residual stream and of a state vector.
      num_heads: attention heads H of every layer.
      head_size: width K of a head.
      mlp_dim: hidden units F of the feed-forward layers.
      vocab_size: rows of the embedding, which is also the output layer.
      window_length: W, in tokens: the block, and how far back a token sees.
      attention: 'sliding' (the W tokens before), or 'full' (all tokens before in the segment,
        nothing carried; documents may start every W tokens).
      recurrent_layers: indices of the layers with a recurrent cell; negative ones count from the
        top. Empty for the Transformer-XL and sliding-window baselines.
      num_states: state vectors S of a recurrent layer.
      gate: how states take in what the cell computes: 'fixed' (a learned moving average), 'lstm' or
        'gru'.
      configuration: the cell's gates: 'dual' (after the projection and after the feed-forward
        network), 'single' (after the latter, no projection), or 'skip' (after the former, no
        feed-forward network); Figure 2 of the paper.
      feedback: every layer attends to the state of the last recurrent layer; the whole stack then
        runs block by block.
      attention_kernel: what computes the attention of tokens and states, always the same: 'xla';
        'pallas', kernels that never write the W × 2W weights to memory (a GPU takes multiples of 16
        for W and, in layers that read states, S, and K of 16, 32, 64 or 128; a single TPU multiples
        of 128 for all; a CPU interprets them, for tests); or 'auto': 'pallas' in bfloat16 in the
        layers of which a GPU takes the sizes, else 'xla'. (In float32, and on a TPU, they have not
        yet run.)
      positions: 't5' (learned relative bias) or 'rope'.
      dropout_rate: fraction dropped, in training.
      remat: what training computes a second time instead of keeping it for the gradient: 'none';
        'attention' (the attention weights of the tokens); 'layer' (all that is inside a layer).
      dtype: 'float32' or 'bfloat16', of the computation; parameters are float32.
    """

    num_layers: Annotated[int, "layers"] = 12
    layer: Literal["transformer", "lstm"] = "transformer"
    embedding_size: Annotated[int, "dimensions"] = 1024
    num_heads: Annotated[int, "heads"] = 8
    head_size: Annotated[int, "dimensions"] = 128
    mlp_dim: Annotated[int, "units"] = 4096
    vocab_size: Annotated[int, "token ids"] = 260
    window_length: Annotated[int, "tokens"] = 512
    attention: Literal["sliding", "full"] = "sliding"
    recurrent_layers: Annotated[tuple[int, ...], "layer indices"] = (-3,)
    num_states: Annotated[int, "vectors"] = 512
    gate: Literal["fixed", "lstm", "gru"] = "fixed"
    configuration: Literal["dual", "single", "skip"] = "skip"
    feedback: bool = False
    attention_kernel: Literal["xla", "pallas", "auto"] = "auto"
    positions: Literal["t5", "rope"] = "t5"
    dropout_rate: Annotated[float, "fraction"] = 0.05
    remat: Literal["none", "attention", "layer"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        for index in self.recurrent_layers:
            if not -self.num_layers <= index < self.num_layers:
                raise UserError(
                    f"recurrent_layers names layer {index}, but the model has num_layers = "
                    f"{self.num_layers}: choose from {-self.num_layers} to {self.num_layers - 1}"
                )
        if self.recurrent_layers and self.attention == "full":
            raise UserError(
                "a recurrent layer needs attention = 'sliding': with attention = 'full' "
                "set recurrent_layers = ()"
            )
        if self.attention_kernel == "pallas" and self.attention == "full":
            raise UserError(
                "attention_kernel = 'pallas' needs attention = 'sliding': with attention = 'full' "
                "set attention_kernel = 'xla'"
            )
        if self.recurrent_layers and self.layer == "lstm":
            raise UserError("layer = 'lstm' has no recurrent cells: set recurrent_layers = ()")
        if self.feedback and not self.recurrent_layers:
            raise UserError("feedback = True needs at least one index in recurrent_layers")
        if self.positions == "rope" and self.head_size % 2:
            raise UserError(f"positions = 'rope' needs an even head_size, not {self.head_size}")

    @property
    def has_recurrent_state(self) -> bool:
        """Whether more than keys and values of tokens is carried."""
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
        """Tokens that a layer sees at most: the window or, under full attention, the segment.

        Raises:
          UserError: under full attention, no segment length, or one that is no multiple of W.
        """
        if not self.segment_is_context:
            return self.window_length
        if not segment_length or segment_length % self.window_length:
            raise UserError(
                f"segment_length = {segment_length}: a model with attention = 'full' needs a "
                f"multiple of its window_length {self.window_length}"
            )
        return segment_length
