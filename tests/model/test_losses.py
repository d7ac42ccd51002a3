"""The chunked loss against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from block_recurrent.model import losses
from close import assert_close
from tiny import make_model, make_tokens

TERMS = 24 + 260 + 32  # tokens, vocabulary, features


def test_chunked_loss_and_gradient_equal_the_plain_ones(monkeypatch):
    model = make_model()
    graphdef, params = nnx.split(model)
    features = jnp.asarray(np.random.default_rng(0).standard_normal((2, 24, 32)), jnp.float32)
    targets, weights = make_tokens(2, 24), (make_tokens(2, 24, seed=1) % 2).astype(jnp.float32)

    def loss(params, features):
        return losses.summed_loss(nnx.merge(graphdef, params), features, targets, weights)

    def losses_and_gradients():
        def total(*arguments):
            rows = loss(*arguments)
            return rows.sum(), rows

        gradients, rows = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, features)
        return rows, gradients

    plain, plain_gradients = losses_and_gradients()
    log_probs = jax.nn.log_softmax(model.readout(features))
    expected = -(jnp.take_along_axis(log_probs, targets[..., None], -1)[..., 0] * weights).sum(1)
    assert_close(plain, expected, terms=TERMS)
    monkeypatch.setattr(losses, "MAX_LOGITS", 2 * 260 * 5)
    assert losses.num_chunks(2, 24, 260) == 6
    assert_close(losses_and_gradients(), (plain, plain_gradients), terms=TERMS)
    text = str(
        jax.make_jaxpr(lambda p, f: jax.grad(lambda p: loss(p, f).sum())(p))(params, features)
    )
    assert "f32[2,24,260]" not in text, "the logits of the whole segment exist"
