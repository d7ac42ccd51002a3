"""Models from weights of the authors' code (google-research/meliad)."""

from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from block_recurrent.errors import UserError
from block_recurrent.fields import check_value
from block_recurrent.interop.model_file import model_from_arrays
from block_recurrent.model.config import ModelConfig
from block_recurrent.model.transformer import BlockRecurrentTransformer

GATES = {"bias": "fixed", "lstm": "lstm", "full": "gru"}
SAME_NAMES = (
    "num_layers embedding_size num_heads head_size mlp_dim vocab_size window_length num_states "
    "recurrent_layers feedback positions"
).split()
OTHER_NAMES = ("gate", "single_gate", "skip_ffn")

# Our name of a parameter → the authors' name. Ours are paths below `layers/<index>`, theirs below
# `transformer<index>`.
LAYER_PARAMETERS = {
    "attention_norm/scale": "tbase/_kvq/pre_attn_layernorm/scale",
    "attention/scale": "tbase/_kvq/attention_scale",
    "attention/query/kernel": "tbase/_kvq/queries_layer/kernel",
    "attention/key/kernel": "tbase/_kvq/keys_layer/kernel",
    "attention/value/kernel": "tbase/_kvq/values_layer/kernel",
    "attention/state_query/kernel": "tbase/_kvq/queries2_layer/kernel",
    "attention/state_scale": "tbase/attention_scale2",
    "attention/relative_bias/table": "relative_positions/rel_embedding",
    "attention/output/kernel": "tbase/post_attn_mlp/output_layer/kernel",
    "ffn_norm/scale": "tbase/pre_ffn_layernorm/scale",
    "ffn/hidden/kernel": "tbase/ffn/hidden0/kernel",
    "ffn/output/kernel": "tbase/ffn/output_layer/kernel",
}
CELL_PARAMETERS = {
    "cell/initial": "recurrent_initial_state",
    "cell/state_ids": "recurrent_tbase/_kvq/position_embeddings",
    "cell/norm/scale": "recurrent_tbase/_kvq/pre_attn_layernorm/scale",
    "cell/scale": "recurrent_tbase/_kvq/attention_scale",
    "cell/token_scale": "recurrent_tbase/attention_scale2",
    "cell/key/kernel": "recurrent_tbase/_kvq/keys_layer/kernel",
    "cell/value/kernel": "recurrent_tbase/_kvq/values_layer/kernel",
    "cell/query/kernel": "recurrent_tbase/_kvq/queries_layer/kernel",
    "cell/token_query/kernel": "recurrent_tbase/_kvq/queries2_layer/kernel",
    "cell/output/kernel": "recurrent_tbase/post_attn_mlp/output_layer/kernel",
    "cell/ffn_norm/scale": "recurrent_tbase/pre_ffn_layernorm/scale",
    "cell/ffn/hidden/kernel": "recurrent_tbase/ffn/hidden0/kernel",
    "cell/ffn/output/kernel": "recurrent_tbase/ffn/output_layer/kernel",
}
GATE_PARAMETERS = {
    "bias": "gate_bias",
    "gate/kernel": "gate_layer/kernel",
    "gate/bias": "gate_layer/bias",
    "forget/kernel": "forget_gate/kernel",
    "forget/bias": "forget_gate/bias",
    "input/kernel": "input_gate/kernel",
    "input/bias": "input_gate/bias",
}
CELL_PARAMETERS |= {
    f"cell/output_gate/{k}": f"recurrent_tbase/post_attn_mlp/{v}"
    for k, v in GATE_PARAMETERS.items()
}
CELL_PARAMETERS |= {
    f"cell/ffn_gate/{k}": f"recurrent_tbase/ffn/{v}" for k, v in GATE_PARAMETERS.items()
}


def model_config_from_meliad(config: Mapping) -> ModelConfig:
    """Converts a configuration from the authors' terms to a `ModelConfig`.

    Raises:
      UserError: something is missing, or has no equivalent.
    """
    if not isinstance(config, Mapping):
        raise UserError(
            f"config is of type {type(config).__name__}: pass a mapping, such as json.loads(text)"
        )
    missing = [name for name in (*SAME_NAMES, *OTHER_NAMES) if name not in config]
    if missing:
        raise UserError(f"the configuration lacks {', '.join(missing)}: add what the model has")
    gate = check_value("gate", config["gate"], Literal[*GATES])
    configuration = "dual"
    if config["single_gate"]:
        configuration = "single"
    elif config["skip_ffn"]:
        configuration = "skip"
    fields = {name: config[name] for name in SAME_NAMES}
    return ModelConfig(**fields, gate=GATES[gate], configuration=configuration, dropout_rate=0.0)


def meliad_name(path: str) -> str:
    """The authors' name of a parameter, given our name, such as 'layers/0/ffn/hidden/kernel'."""
    if path == "embedding":
        return "embed/embedding"
    if path == "final_norm/scale":
        return "final_layernorm/scale"
    _, index, inner = path.split("/", 2)
    return f"transformer{index}/{(LAYER_PARAMETERS | CELL_PARAMETERS)[inner]}"


def model_from_meliad(
    config: Mapping, params: Mapping[str, np.ndarray]
) -> BlockRecurrentTransformer:
    """Builds the model from weights of the authors' code.

    Args:
      config: the architecture in the authors' terms: sizes as in `ModelConfig`, `gate` 'bias',
        'lstm' or 'full', and the booleans `single_gate`, `skip_ffn` and `feedback`.
      params: arrays by the authors' names, such as 'transformer0/tbase/ffn/hidden0/kernel'. If any
        names start with 'params/', only these are used.

    Raises:
      UserError: a parameter is missing, unexpected or has another shape; see also
        `model_config_from_meliad`.
    """
    if any(name.startswith("params/") for name in params):
        params = {
            n.removeprefix("params/"): v for n, v in params.items() if n.startswith("params/")
        }

    def name(keys):
        return meliad_name(jax.tree_util.keystr(keys, simple=True, separator="/"))

    return model_from_arrays(model_config_from_meliad(config), params, name)
