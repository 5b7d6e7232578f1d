"""Gradients of the library's losses."""

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import losses
from miue_jax.workflows.benchmark._work import Work

CLASSES = 10


def samples(batch_size: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (B, D) and labels (B,)."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((batch_size, dim), np.float32)
    return features, (np.arange(batch_size) % CLASSES).astype(np.int32)


def mi_ue(batch_size: int, dim: int) -> Work:
    """The objective of MI-UE."""
    return _gradient(losses.mi_ue_loss, batch_size, dim)


def covariance(batch_size: int, dim: int, statistic: str) -> Work:
    """The covariance within classes."""

    def loss(features, labels):
        return losses.conditional_covariance_loss(
            features,
            labels,
            num_classes=CLASSES,
            statistic=statistic,  # pyrefly: ignore
        )

    return _gradient(loss, batch_size, dim)


def _gradient(loss, batch_size: int, dim: int) -> Work:
    features, labels = map(jnp.asarray, samples(batch_size, dim))
    # Labels are traced, as in training.
    gradient = jax.jit(jax.grad(loss))
    return Work(
        lambda: jax.block_until_ready(gradient(features, labels)),
        value=lambda found: float(jnp.linalg.norm(found)),
    )
