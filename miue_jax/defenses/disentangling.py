"""Training of D-VAE's autoencoder: its loss and its loop."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from miue_jax.models.disentangling_vae import Disentangled, DisentanglingVAE
from miue_jax.train import sampling
from miue_jax.train.classifier import epochwise_cosine

_CLIP_NORM = 5.0
_RATE_WEIGHT = 0.01
# From this epoch on the mean square of the perturbation counts, above this power.
_RESTRAINED_EPOCH = 10
_FREE_POWER = 0.002

_INIT, _ORDER, _NOISE = range(3)


def latent_rate(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """The mean divergence of a map of Gaussians from the standard normal, in nats.

    Per pixel, sum over channels of (mu^2 + sigma^2 - log sigma^2 - 1) / 2.

    Args:
      mean: (B, H, W, D) float.
      log_variance: (B, H, W, D) float.

    Returns:
      () float, nats per pixel of the map.
    """
    divergence = (mean**2 + jnp.exp(log_variance) - log_variance - 1) / 2
    return divergence.sum(-1).mean()


def disentangling_loss(
    outputs: Disentangled,
    images: jax.Array,
    *,
    rate: ArrayLike,
    restrained: ArrayLike,
) -> jax.Array:
    """What the autoencoder minimizes.

    With reconstruction r, perturbation p and the mean over all values: mean (r - x)^2 +
    mean (clip(r + p) - x)^2 + 0.01 max(KL, rate), and max(mean p^2, 0.002) where
    ``restrained``.

    Args:
      outputs: of the autoencoder.
      images: (B, H, W, C) in [0, 1], its input.
      rate: nats per pixel of the latent map below which the divergence is free.
      restrained: () bool, whether the perturbation's power counts.

    Returns:
      () float.
    """
    both = jnp.clip(outputs.reconstruction + outputs.perturbation, 0, 1)
    power = jnp.mean(outputs.perturbation**2)
    return (
        jnp.mean((outputs.reconstruction - images) ** 2)
        + jnp.mean((both - images) ** 2)
        + _RATE_WEIGHT * jnp.maximum(latent_rate(*outputs[2:]), rate)
        + jnp.where(restrained, jnp.maximum(power, _FREE_POWER), 0)
    )


@functools.partial(
    jax.jit, static_argnames=("module", "epochs", "batch_size", "learning_rate")
)
def train(
    key: jax.Array,
    data: sampling.Shards,
    rate: ArrayLike,
    *,
    module: DisentanglingVAE,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> Any:
    """Trains the autoencoder from scratch.

    Adam with a cosine over epochs on gradients cut to norm 5, without augmentation. The
    last batch of an epoch is filled from the epoch's start.

    Args:
      key: of the initial parameters, the order of the images and the latent noise.
      data: the training set in one shard.
      rate: of `disentangling_loss`.
      module: the autoencoder.
      epochs: passes over the training set; the perturbation is restrained from the
        eleventh on.
      batch_size: images in a batch; a smaller training set is one batch.
      learning_rate: of the first epoch.

    Returns:
      The trained variables.
    """
    size = data.labels.shape[1]
    share = min(batch_size, size)
    steps = sampling.steps_per_pass(size, 1, share)
    optimizer = optax.chain(
        optax.clip_by_global_norm(_CLIP_NORM),
        optax.adam(epochwise_cosine(learning_rate, 0.0, epochs, steps)),
    )

    def step(index: jax.Array, carry: Any) -> Any:
        params, state, opt_state, order = carry
        epoch, position = jnp.divmod(index, steps)
        order_key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
        order = sampling.order_of_pass(order_key, position, order, data)
        batch = sampling.take(data, order, position, share)
        step_key = jax.random.fold_in(jax.random.fold_in(key, _NOISE), index)

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            outputs, updated = module.apply(
                {"params": params, **state},
                step_key,
                batch.images[0],
                batch.labels[0],
                train=True,
                mutable=list(state),
            )
            loss = disentangling_loss(
                outputs,
                batch.images[0],
                rate=rate,
                restrained=epoch >= _RESTRAINED_EPOCH,
            )
            return loss, updated

        grads, state = jax.grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, order

    init_key = jax.random.fold_in(key, _INIT)
    example = jnp.zeros((1, *data.images.shape[2:]), jnp.float32)
    variables = dict(
        module.init(init_key, init_key, example, data.labels[0, :1], train=False)
    )
    params = variables.pop("params")
    order = jnp.zeros(data.labels.shape, jnp.int32)
    carry = (params, variables, optimizer.init(params), order)
    params, state, *_ = lax.fori_loop(0, epochs * steps, step, carry)
    return {"params": params, **state}
