"""Worker: the authors' code, from a checkout of google-research/meliad on the path.

Its own gin files (base_memory.gin and a file of recurrent/) configure the model, except for the
sizes. Its training loop and its data pipeline are not needed: mocks replace the modules that they
import, so that JAX, Flax, gin-config, einops and absl are enough.
"""

import sys
from pathlib import Path
from unittest import mock

ABSENT = "seqio metrics_summary model_base transformer.text_dataset transformer.model_runner"
sys.modules |= {name: mock.MagicMock() for name in ABSENT.split()}

import gin  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax_step import compiled, device_peak, filled, num_parameters  # noqa: E402
from serve import arguments, serve  # noqa: E402
from transformer import language_model, nn_components  # noqa: E402
from transformer.memory import decoder_stack  # noqa: E402

nn_components.vshape = language_model.vshape = lambda x: None
GATES = {"fixed": "bias", "lstm": "lstm"}


def build(spec: dict) -> decoder_stack.DecoderStack:
    """Their model, with sizes given as ModelConfig fields."""
    m = spec["model"]
    folder = Path(decoder_stack.__file__).parent.parent / "configs"
    gin.add_config_file_search_path(str(folder))
    files = ["base_memory.gin", f"recurrent/{GATES[m['gate']]}_{m['configuration']}.gin"]
    bindings = [
        f"NUM_LAYERS = {m['num_layers']}",
        f"NUM_HEADS = {m['num_heads']}",
        f"HEAD_DIM = {m['head_size']}",
        f"EMBED_DIM = {m['embedding_size']}",
        f"MLP_DIM = {m['mlp_dim']}",
        f"NUM_EMBEDDINGS = {m['vocab_size']}",
        f"SEGMENT_LENGTH = {spec['segment_length']}",
        f"WINDOW_LENGTH = {m['window_length']}",
        f"DROPOUT_RATE = {m['dropout_rate']}",
        f"ATTN_DROPOUT_RATE = {m['dropout_rate']}",
        f"DTYPE = '{m['dtype']}'",
        f"language_model.TransformerTaskConfig.batch_size = {spec['batch_size']}",
        f"transformer_layer.TransformerLayer.recurrent_num_states = {m['num_states']}",
        f"decoder_stack.DecoderStack.recurrent_layer_indices = {tuple(m['recurrent_layers'])}",
    ]
    gin.parse_config_files_and_bindings(
        [str(folder / name) for name in files], bindings, skip_unknown=True
    )
    return decoder_stack.DecoderStack(
        mode="train", task_config=language_model.TransformerTaskConfig()
    )


def main() -> None:
    spec = arguments()
    model = build(spec)
    batch_size, length = spec["batch_size"], spec["segment_length"]
    tokens = np.random.default_rng(0).integers(
        0, spec["model"]["vocab_size"], (batch_size, length + 1)
    )
    batch = {
        "input_tokens": jnp.asarray(tokens[:, :-1], jnp.int32),
        "target_tokens": jnp.asarray(tokens[:, 1:], jnp.int32),
        "start_of_sequence": jnp.zeros(batch_size, bool),
    }
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = filled(jax.eval_shape(lambda: model.init(keys, batch, global_info={})))
    params, memory = variables["params"], variables["state"]

    def loss_fn(params, memory, batch, key):
        (logits, _), after = model.apply(
            {"params": params, "state": memory},
            batch,
            global_info={},
            rngs={"dropout": key},
            mutable=["state"],
        )
        logits = logits.astype(jnp.float32)
        targets = batch["target_tokens"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return losses.mean(), after["state"]

    optimizer = optax.adamw(1e-3)

    def step(params, moments, memory, batch, key):
        (loss, memory), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, memory, batch, key
        )
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, memory, loss

    key = jax.random.key(2)
    moments = optimizer.init(params)
    step, facts = compiled(step, params, moments, memory, batch, key, donate_argnums=(0, 1, 2))
    parameters = num_parameters(params)
    holder = [params, moments, memory]

    def train():
        *holder[:], loss = step(*holder, batch, key)
        jax.block_until_ready((holder, loss))

    def compiled_forward():
        forward, _ = compiled(loss_fn, params, memory, batch, key)
        return lambda: jax.block_until_ready(forward(holder[0], holder[2], batch, key))

    measures = {"train": train}
    if "forward" in spec["measures"]:
        measures["forward"] = compiled_forward()
    serve(measures, device_peak, parameters=parameters, **facts)


main()
