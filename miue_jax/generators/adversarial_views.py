"""Images as an adversarially trained victim sees them: augmented, then attacked."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from miue_jax.generators.adversary import adversarial_change
from miue_jax.generators.transformed import Transformed
from miue_jax.image import augment
from miue_jax.train import sampling


def adversarial_views(
    key: jax.Array,
    shard: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    loss_fn: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    views: int,
    crop: int,
    mirror: bool,
    radius: float,
    step_size: float,
    num_steps: int,
    transformed: Callable[[jax.Array], Transformed] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draws views of a batch and lets an adversary raise the loss of each.

    A view may be transformed first; it is mirrored at random, padded with black and
    cropped. The adversary starts from uniform noise in its ball, clipped to [0, 1], and
    takes projected-gradient steps. The result is differentiable with respect to the
    images, through the views; what the adversary adds is treated as a constant.

    Args:
      key: a PRNG key.
      shard: (g,) int32, the indices of the device's shards, which draw independently.
      images: (g, b, H, W, C) float in [0, 1].
      labels: (g, b) int32.
      loss_fn: images (B, H, W, C) and labels (B,) -> the () loss to raise.
      views: views per image.
      crop: largest shift of a view, in pixels.
      mirror: whether to mirror views with probability 1/2.
      radius: of the adversary's L-infinity ball, in [0, 1] units; 0 for no adversary.
      step_size: of its steps, in [0, 1] units.
      num_steps: number of its steps; 0 leaves it at its start.
      transformed: a PRNG key -> what happens to the batch before, see
        `transformed.draw`; None for nothing.

    Returns:
      The attacked views (views * g * b, H, W, C), one draw of all images after another,
      and their labels (views * g * b,), or class probabilities (views * g * b, K) where
      transformations mix images.

    References:
      Fu, He, Liu, Shen, Tao, Robust Unlearnable Examples, ICLR 2022.
    """
    shard_keys = sampling.shard_keys(key, shard)
    each = jax.vmap(lambda k: jax.random.split(k, (views, 2)), out_axes=1)(shard_keys)
    view_keys, start_keys = jnp.unstack(each, axis=2)  # (views, g) each

    def transform(key: jax.Array, images: jax.Array) -> jax.Array:
        # A single draw: each call of threefry takes seconds to compile.
        draws = jax.random.uniform(key, (len(images), 3), jnp.float32)
        corners = jnp.floor(draws[:, 1:] * (2 * crop + 1)).astype(jnp.int32)
        if mirror:
            images = augment.flip_where(draws[:, 0] < 0.5, images)
        padded = jnp.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)))

        def cut(image: jax.Array, corner: jax.Array) -> jax.Array:
            return lax.dynamic_slice(image, (*corner, jnp.int32(0)), images.shape[1:])

        return jax.vmap(cut)(padded, corners)

    if transformed is None:
        seen = jax.vmap(jax.vmap(transform), (0, None))(view_keys, images)
        labels = jnp.tile(labels.reshape(-1), views)
    else:
        flat = images.reshape(-1, *images.shape[2:])
        drawn = [transformed(jax.random.fold_in(key, n)) for n in range(views)]
        changed = jnp.stack([one.see(flat).reshape(images.shape) for one in drawn])
        seen = jax.vmap(jax.vmap(transform))(view_keys, changed)
        labels = jnp.concatenate([one.targets for one in drawn])
    seen = seen.reshape(-1, *images.shape[2:])
    if radius == 0:
        return seen, labels

    change = adversarial_change(
        start_keys.ravel(),
        lax.stop_gradient(seen),
        lambda attacked: loss_fn(attacked, labels),
        radius=radius,
        step_size=step_size,
        num_steps=num_steps,
    )
    return seen + lax.stop_gradient(change), labels
