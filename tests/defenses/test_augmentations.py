"""What all defenses that change the images of a training step have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.cutmix import cutmix
from miue_jax.defenses.cutout import cutout
from miue_jax.defenses.gaussian_blur import gaussian_blur
from miue_jax.defenses.gaussian_noise import gaussian_noise
from miue_jax.defenses.mixup import mixup
from miue_jax.defenses.rand_augment import rand_augment

_SHAPE = (8, 12, 3)
_CLASSES = 4
_ALL = {
    "cutout": cutout(_SHAPE, _CLASSES, size=4),
    "cutmix": cutmix(_SHAPE, _CLASSES),
    "mixup": mixup(_SHAPE, _CLASSES),
    "gaussian_noise": gaussian_noise(_SHAPE, _CLASSES),
    "gaussian_blur": gaussian_blur(_SHAPE, _CLASSES),
    "rand_augment": rand_augment(_SHAPE, _CLASSES, num_ops=1),
}


@pytest.mark.parametrize("name", _ALL)
def test_augments_shard_by_shard(name):
    augment = jax.jit(jax.vmap(_ALL[name].augment))
    keys = jax.random.split(jax.random.key(0), 2)
    # Extreme values, so that what leaves the range would be seen.
    images = jax.random.bernoulli(jax.random.key(1), shape=(2, 6, *_SHAPE))
    images = images.astype(jnp.float32)
    labels = jnp.arange(12, dtype=jnp.int32).reshape(2, 6) % _CLASSES
    changed, new_labels = augment(keys, images, labels)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not np.array_equal(changed, images), "nothing was changed"

    again, _ = augment(keys, images.at[0].set(0.5), labels)
    np.testing.assert_array_equal(again[1], changed[1], "shards depend on each other")
    other, _ = augment(keys[::-1], images, labels)
    assert not np.array_equal(other, changed), "the key is not used"

    if name in ("mixup", "cutmix"):
        assert new_labels.shape == (2, 6, _CLASSES)
        np.testing.assert_allclose(new_labels.sum(-1), 1, atol=1e-6)
    else:
        np.testing.assert_array_equal(new_labels, labels)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", _ALL)
def test_dtype_is_kept(name, dtype):
    with jax.enable_x64(True):
        images = jax.ShapeDtypeStruct((6, *_SHAPE), dtype)
        labels = jax.ShapeDtypeStruct((6,), np.int32)
        result, new_labels = jax.eval_shape(
            _ALL[name].augment, jax.random.key(0), images, labels
        )
    assert result.dtype == images.dtype
    assert new_labels.dtype in (np.int32, np.float32)


@pytest.mark.parametrize("name", ["cutout", "gaussian_noise", "gaussian_blur"])
def test_images_of_a_batch_are_changed_one_by_one(name):
    image = jax.random.uniform(jax.random.key(1), _SHAPE)
    images = jnp.broadcast_to(image, (6, *_SHAPE))
    labels = jnp.zeros(6, jnp.int32)
    changed, _ = jax.jit(_ALL[name].augment)(jax.random.key(0), images, labels)
    distinct = np.unique(np.asarray(changed).reshape(6, -1), axis=0)
    assert len(distinct) > 3, "all images got the same change"
