"""The contract of a model, for the tests of its author."""

import jax
import jax.numpy as jnp
from flax import linen as nn


def check_model(
    module: nn.Module, *, image_shape: tuple[int, ...], num_classes: int
) -> None:
    """Checks that a network can be a surrogate and a victim.

    Args:
      module: the network.
      image_shape: (H, W, C) of the images that it takes.
      num_classes: number of its logits.

    Raises:
      AssertionError: saying which promise is broken.

    Example:
      >>> from miue_jax import models, testing
      >>> net = models.create("linear", num_classes=3)
      >>> testing.check_model(net, image_shape=(8, 8, 3), num_classes=3)
    """
    images = jax.random.uniform(jax.random.key(0), (4, *image_shape))
    variables = dict(module.init(jax.random.key(1), images, train=False))
    variables.pop("intermediates", None)
    assert set(variables) <= {"params", "batch_stats"}, (
        f"the network has the collections {sorted(variables)}; allowed: params and "
        "batch_stats"
    )

    @jax.jit
    def apply(variables, images):
        return module.apply(variables, images, train=False)

    outputs = apply(variables, images)
    assert isinstance(outputs, tuple), "the network must return (features, logits)"
    assert len(outputs) == 2, "the network must return (features, logits)"
    features, logits = outputs
    assert features.ndim == 2, f"features must be (B, D), got {features.shape}"
    assert features.shape[0] == 4, f"features must be (B, D), got {features.shape}"
    assert logits.shape == (4, num_classes), f"logits are {logits.shape}"
    for name, array in (("features", features), ("logits", logits)):
        assert array.dtype == jnp.float32, f"{name} must be float32, got {array.dtype}"
        assert bool(jnp.isfinite(array).all()), f"{name} are not finite"
    alone = apply(variables, images[:1])[1]
    close = bool(jnp.allclose(alone[0], logits[0], rtol=1e-3, atol=1e-3))
    assert close, "in evaluation mode an image must not depend on its batch"

    def loss(params, images):
        state = {k: v for k, v in variables.items() if k != "params"}
        (_, logits), updated = module.apply(
            {"params": params, **state}, images, train=True, mutable=list(state)
        )
        assert set(updated) == set(state), f"training updates {sorted(updated)}"
        return jnp.sum(jnp.square(logits))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], images)
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))
    assert finite, "gradients are not finite"
