"""D-VAE: purification by an autoencoder that may keep few nats an image."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from miue_jax._checks import check_number
from miue_jax.defenses import disentangling
from miue_jax.defenses.base import Defense, check_images
from miue_jax.models.disentangling_vae import Disentangled, DisentanglingVAE
from miue_jax.train import sampling


def d_vae(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 64,
    epochs: int = 60,
    batch_size: int = 128,
    learning_rate: float = 5e-3,
    first_rate: float = 1.0,
    second_rate: float = 3.0,
) -> Defense:
    """Replaces the training set by what a rate-constrained autoencoder makes of it.

    Two stages, each with an autoencoder trained from scratch on what it is to purify
    (`disentangling_loss`; Adam, cosine over epochs, gradients cut to norm 5). The
    first, of the lower rate, gives a perturbation p of each image; images become
    clip(x - p), in gray levels. The second subtracts its own perturbation in the same
    way, then the images are replaced by its reconstructions of the result.

    The defaults are those of the published code for 32x32 images. ``width`` is to be
    reduced where there is no accelerator: time grows with its square.

    What the published commands compute is followed. In that code, ``--use_y`` switches
    the use of the encoder's features off, so that the second decoder sees the drawn
    latent and the map of the class; the variant without the flag is not offered. A
    lower weight of the divergence, 0.5, cannot be reached at rates above 0.99 and is
    left out, as are a trained classifier whose results nothing uses, and an evaluation
    after the first stage. Two things are not as there: the last batch of an epoch is
    filled from the epoch's start, and values are rounded to gray levels. What it leaves
    open is taken as follows: the latent is drawn, not replaced by its mean, in
    purification too, and batches are then normalized with running statistics.

    Args:
      image_shape: (H, W, C) of the images.
      num_classes: classes.
      width: channels of the autoencoder's stem.
      epochs: passes over the training set in each stage.
      batch_size: images in a batch; a smaller training set is one batch.
      learning_rate: of Adam in the first epoch.
      first_rate: nats per pixel of the latent map that the first stage leaves free.
      second_rate: the same of the second stage.

    Returns:
      A defense whose `purify` takes and returns (N, H, W, C) uint8. It raises
      FloatingPointError if a training diverges.

    Raises:
      ValueError: if a setting is out of range, or H or W no multiple of 4.

    Example:
      >>> from miue_jax import defenses
      >>> defense = defenses.d_vae((32, 32, 3), 10, width=8, epochs=1)
      >>> defense.purify is not None
      True

    References:
      Yu et al., Purify Unlearnable Examples via Rate-Constrained Variational
      Autoencoders, ICML 2024.
    """
    for name, value in (
        ("width", width),
        ("epochs", epochs),
        ("batch_size", batch_size),
    ):
        check_number(f"d_vae {name}", value, "> 0", whole=True)
    check_number("d_vae learning_rate", learning_rate, "> 0")
    check_number("d_vae first_rate", first_rate, ">= 0")
    check_number("d_vae second_rate", second_rate, ">= 0")
    if any(side % 4 for side in image_shape[:2]):
        raise ValueError(
            f"d_vae needs sides that are multiples of 4, got "
            f"{image_shape[0]}x{image_shape[1]}"
        )

    module = DisentanglingVAE(num_classes, width)

    def purify(key: jax.Array, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        images, labels = check_images(images, image_shape), np.asarray(labels)
        if not np.all((labels >= 0) & (labels < num_classes)):
            raise ValueError(
                f"labels must be in [0, {num_classes}), got {labels.min()} to "
                f"{labels.max()}"
            )
        stages = ((first_rate, False), (second_rate, True))
        for stage, (rate, rebuild) in enumerate(stages, start=1):
            train_key, clean_key = jax.random.split(jax.random.fold_in(key, stage))
            data = jax.device_put(sampling.deal(images, labels, 1))
            variables = disentangling.train(
                train_key,
                data,
                rate,
                module=module,
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
            )
            if not all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
                raise FloatingPointError(
                    f"stage {stage} of d_vae diverged at learning rate {learning_rate}"
                )
            cleaned = _clean(
                clean_key,
                variables,
                data,
                module=module,
                batch_size=batch_size,
                rebuild=rebuild,
            )
            images = np.asarray(cleaned)
        return images

    return Defense(purify=purify)


@functools.partial(jax.jit, static_argnames=("module", "batch_size", "rebuild"))
def _clean(
    key: jax.Array,
    variables: Any,
    data: sampling.Shards,
    *,
    module: DisentanglingVAE,
    batch_size: int,
    rebuild: bool,
) -> jax.Array:
    """Subtracts the perturbations and, to ``rebuild``, reconstructs what is left.

    Returns (N, H, W, C) uint8.
    """
    size = data.labels.shape[1]
    share = min(batch_size, size)

    def clean_batch(index: jax.Array) -> jax.Array:
        batch = sampling.take_in_order(data, index, share)
        keys = jax.random.split(jax.random.fold_in(key, index))

        def outputs_of(key: jax.Array, images: jax.Array) -> Disentangled:
            outputs: Any = module.apply(
                variables, key, images, batch.labels[0], train=False
            )
            return outputs

        images = batch.images[0]
        images = jnp.clip(images - outputs_of(keys[0], images).perturbation, 0, 1)
        if rebuild:
            images = outputs_of(keys[1], images).reconstruction
        return jnp.round(255 * images).astype(jnp.uint8)

    batches = lax.map(clean_batch, jnp.arange(math.ceil(size / share)))
    return batches.reshape(-1, *batches.shape[2:])[:size]
