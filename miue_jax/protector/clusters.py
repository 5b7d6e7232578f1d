"""Codes for pictures without classes: clusters of their colors and edges.

A descriptor holds the colors of 4x4 fields, how strong edges of eight directions are in
2x2 fields, and how much they and the colors vary. Pictures of one style or subject lie
together; no network has to be trained for it.
"""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Pixels of a side at which pictures are described.
SIDE = 32
_FIELDS = 4
_DIRECTIONS = 8
_STARTS = 10
SIZE = 3 * _FIELDS**2 + 4 * _DIRECTIONS + 3


class Clusters(NamedTuple):
    """Centers of clusters of descriptors.

    Attributes:
      centers: (G, D) float32, G may be 0.
      mean: (D,) float32 of the descriptors they were made of.
      scale: (D,) float32, their standard deviations.

    Example:
      >>> from miue_jax.protector import clusters
      >>> clusters.none().centers.shape
      (0, 83)
    """

    centers: jax.Array
    mean: jax.Array
    scale: jax.Array


def none() -> Clusters:
    """Returns no clusters at all.

    Returns:
      Clusters with G = 0.

    Example:
      >>> from miue_jax.protector import clusters
      >>> len(clusters.none().centers)
      0
    """
    return Clusters(jnp.zeros((0, SIZE)), jnp.zeros(SIZE), jnp.ones(SIZE))


def describe(images: jax.Array) -> jax.Array:
    """Describes pictures by colors and edges.

    Args:
      images: (B, H, W, 3) float in [0, 1].

    Returns:
      (B, D) float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.protector import clusters
      >>> clusters.describe(jnp.zeros((2, 48, 64, 3))).shape
      (2, 83)
    """
    batch = len(images)
    small = jax.image.resize(
        images.astype(jnp.float32), (batch, SIDE, SIDE, 3), "linear", antialias=True
    )
    step = SIDE // _FIELDS
    fields = small.reshape(batch, _FIELDS, step, _FIELDS, step, 3).mean((2, 4))
    luma = small @ jnp.array([0.299, 0.587, 0.114])
    down = luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]
    across = luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]
    strength = jnp.sqrt(down**2 + across**2 + 1e-12)
    # Edges of both signs are one direction; a soft vote avoids jumps.
    angle = jnp.arctan2(down, across) % jnp.pi
    centers = jnp.pi * jnp.arange(_DIRECTIONS) / _DIRECTIONS
    votes = jnp.cos(angle[..., None] - centers) ** 8 * strength[..., None]
    half = (SIDE - 2) // 2
    votes = votes.reshape(batch, 2, half, 2, half, _DIRECTIONS).mean((2, 4))
    return jnp.concatenate(
        [
            fields.reshape(batch, 3 * _FIELDS**2),
            jnp.sqrt(votes).reshape(batch, 4 * _DIRECTIONS),
            small.std((1, 2)),
        ],
        axis=1,
    )


def find(descriptors: np.ndarray, count: int, *, seed: int) -> Clusters:
    """Finds clusters by k-means, the best of ten starts by k-means++.

    Args:
      descriptors: (N, D) float32, from `describe`.
      count: how many at most; fewer if some stay empty or pictures are fewer.
      seed: of the start.

    Returns:
      The clusters, numbered in the order in which pictures first fall into them.

    Example:
      >>> import numpy as np
      >>> from miue_jax.protector import clusters
      >>> values = np.repeat(np.eye(2, clusters.SIZE, dtype=np.float32), 8, axis=0)
      >>> clusters.find(values, 2, seed=0).centers.shape
      (2, 83)
    """
    from scipy.cluster import vq

    values = np.asarray(descriptors, np.float64)
    mean, scale = values.mean(0), np.maximum(values.std(0), 1e-3)
    values = (values - mean) / scale
    count = min(count, len(np.unique(values, axis=0)))
    centers = values.mean(0, keepdims=True)
    if count > 1:
        rng = np.random.default_rng(seed)
        with warnings.catch_warnings():
            # Clusters that stay empty are left out below.
            warnings.simplefilter("ignore", UserWarning)
            tries = [
                vq.kmeans2(values, count, minit="++", rng=rng, missing="warn")[0]
                for _ in range(_STARTS)
            ]
        # One start may end where two subjects share a cluster.
        centers = min(tries, key=lambda x: np.sum(vq.vq(values, x)[1] ** 2))
    found, _ = vq.vq(values, centers)
    used = list(dict.fromkeys(found.tolist()))
    return Clusters(
        *(jnp.asarray(x, jnp.float32) for x in (centers[used], mean, scale))
    )


def nearest(clusters: Clusters, images: jax.Array) -> jax.Array:
    """Finds the nearest cluster of every picture.

    Args:
      clusters: the clusters.
      images: (B, H, W, 3) float in [0, 1].

    Returns:
      (B,) int32 in [0, G); 0 if there are none.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.protector import clusters
      >>> clusters.nearest(clusters.none(), jnp.zeros((2, 32, 32, 3))).tolist()
      [0, 0]
    """
    if not len(clusters.centers):
        return jnp.zeros(len(images), jnp.int32)
    values = (describe(images) - clusters.mean) / clusters.scale
    apart = values[:, None] - clusters.centers[None]
    return jnp.argmin(jnp.sum(apart**2, -1), -1).astype(jnp.int32)


def shapes(tensors: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The shapes that arrays of clusters must have in a file.

    Args:
      tensors: arrays by name.

    Returns:
      Shapes by name.

    Example:
      >>> from miue_jax.protector import clusters
      >>> clusters.shapes({})["clusters/mean"]
      (83,)
    """
    centers = tensors.get("clusters/centers")
    count = len(centers) if centers is not None and centers.ndim else 0
    return {
        "clusters/centers": (count, SIZE),
        "clusters/mean": (SIZE,),
        "clusters/scale": (SIZE,),
    }
