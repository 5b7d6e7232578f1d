"""Views of a batch: drawn by shards, whatever the devices hold."""

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.generators import transformed
from miue_jax.image.views import ViewsConfig

SHAPE = (2, 8, 16, 16, 3)
IMAGES = jax.random.uniform(jax.random.key(1), SHAPE, minval=0.2)
LABELS = jnp.arange(16).reshape(2, 8) % 4
CONFIG = ViewsConfig(jpeg=0.4, noise=0.2, cutmix=0.2, mixup=0.1)


def _draw(shards, images, labels, config=CONFIG, seed=0):
    drawn = transformed.draw(
        jax.random.key(seed),
        jnp.array(shards),
        images.shape,
        labels,
        config,
        num_classes=4,
    )
    return drawn.see(images.reshape(-1, *SHAPE[2:])), drawn.targets


def test_a_shard_draws_the_same_alone_as_beside_others():
    together, targets = _draw([3, 5], IMAGES, LABELS)
    for i, shard in enumerate([3, 5]):
        alone, own = _draw([shard], IMAGES[i : i + 1], LABELS[i : i + 1])
        np.testing.assert_array_equal(alone, together[8 * i : 8 * i + 8])
        np.testing.assert_array_equal(own, targets[8 * i : 8 * i + 8])
    other, _ = _draw([3, 5], IMAGES, LABELS, seed=1)
    assert (np.asarray(other) != together).any()


def test_images_are_seen_the_same_each_time_and_mix_within_their_shard():
    drawn = transformed.draw(
        *(jax.random.key(0), jnp.arange(2), SHAPE, LABELS, ViewsConfig(mixup=1.0)),
        num_classes=4,
    )
    apart = jnp.concatenate([jnp.zeros((8, *SHAPE[2:])), jnp.ones((8, *SHAPE[2:]))])
    np.testing.assert_array_equal(drawn.see(apart), apart)
    flat = IMAGES.reshape(apart.shape)
    np.testing.assert_array_equal(drawn.see(flat), drawn.see(flat))
    assert drawn.targets.shape == (16, 4)
    # Mostly more of the own class than of any other.
    own = np.asarray(transformed.most(drawn.targets)) == LABELS.reshape(-1)
    assert own.mean() > 0.5


def test_plain_views_are_the_images_and_their_labels():
    seen, targets = _draw([0, 1], IMAGES, LABELS, ViewsConfig())
    np.testing.assert_array_equal(seen, IMAGES.reshape(seen.shape))
    np.testing.assert_array_equal(targets, LABELS.reshape(-1))
    np.testing.assert_array_equal(transformed.most(targets), targets)
