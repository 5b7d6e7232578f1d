"""The contract of a defense, for the tests of its author."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import models
from miue_jax.budget import to_unit
from miue_jax.defenses.base import Defense
from miue_jax.train import sampling
from miue_jax.victims import VictimConfig, victim

_SIZE = 16


def check_defense(
    defense: Defense, *, image_shape: tuple[int, ...], num_classes: int
) -> None:
    """Checks that a defense keeps its promises on random images.

    Args:
      defense: the defense.
      image_shape: (H, W, C) of the images that it was made for.
      num_classes: number of classes.

    Raises:
      AssertionError: saying which promise is broken.

    Example:
      >>> from miue_jax import defenses, testing
      >>> cutout = defenses.create("cutout-4", image_shape=(8, 8, 3), num_classes=2)
      >>> testing.check_defense(cutout, image_shape=(8, 8, 3), num_classes=2)
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (_SIZE, *image_shape)).astype(np.uint8)
    labels = (np.arange(_SIZE) % num_classes).astype(np.int32)
    key = jax.random.key(0)
    if defense.purify is not None:
        before = images.copy()
        purified = defense.purify(key, images, labels)
        assert isinstance(purified, np.ndarray), "purify must return a NumPy array"
        assert purified.dtype == np.uint8, (
            f"purify returned {purified.dtype}, not uint8"
        )
        assert purified.shape == images.shape, f"purify returned {purified.shape}"
        assert (images == before).all(), "purify changed its input"
        again = defense.purify(key, images, labels)
        assert (purified == again).all(), "purify is not a function of its key"
    floats = to_unit(jnp.asarray(images, jnp.float32))
    if defense.augment is not None:
        augmented, targets = jax.jit(defense.augment)(key, floats, jnp.asarray(labels))
        assert augmented.shape == floats.shape, f"augment returned {augmented.shape}"
        inside = bool((augmented >= 0).all() & (augmented <= 1).all())
        assert inside, "augment left [0, 1]"
        shapes = ((_SIZE,), (_SIZE, num_classes))
        assert targets.shape in shapes, f"augment returned labels {targets.shape}"
        if targets.ndim == 2:
            sums = np.asarray(targets.sum(1))
            assert np.allclose(sums, 1, rtol=1e-5), "class probabilities must sum to 1"
    _check_training(defense, images, labels, num_classes)


def _check_training(
    defense: Defense, images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
    """Trains a small victim for one step behind the defense."""
    config = VictimConfig(model="mlp2", width=8, epochs=1, batch_size=_SIZE)
    trained = victim(
        config, num_examples=_SIZE, num_classes=num_classes, defense=defense
    )
    data = sampling.deal(images, labels, 1)
    state = trained.init(jax.random.key(0), data)
    after, metrics = jax.jit(trained.step)(jax.random.key(1), state, data)
    assert np.isfinite(metrics["loss"].total), "the loss is not finite"
    leaves = jax.tree.leaves(after.shared.variables)
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)
    assert finite, "the gradient of the loss is not finite"
    if defense.attack is None:
        return
    net = models.create("mlp2", num_classes=num_classes, width=8)

    def predict(images: jax.Array) -> jax.Array:
        outputs: Any = net.apply(after.shared.variables, images, train=False)
        return outputs[1]

    keys = jax.random.split(jax.random.key(2), _SIZE)
    floats = to_unit(jnp.asarray(images, jnp.float32))
    attacked = jax.jit(lambda k, x, y: defense.attack(k, predict, x, y))(
        keys, floats, jnp.asarray(labels)
    )
    assert attacked.shape == floats.shape, f"attack returned {attacked.shape}"
    inside = bool((attacked >= -1e-6).all() & (attacked <= 1 + 1e-6).all())
    assert inside, "attack left [0, 1]"
