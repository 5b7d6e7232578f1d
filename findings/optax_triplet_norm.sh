#!/usr/bin/env bash
# optax 0.2.8 takes differences with their signs into the distances of a triplet loss.
#
# Expected: `triplet_margin_loss(..., norm_degree=p)`, documented to calculate distances
# in the norm of that degree, has the distances of that norm: the p-th root of the sum of
# the p-th powers of the absolute differences, as `numpy.linalg.norm` and as the losses of
# this name elsewhere.
# Seen: the powers are taken of the differences themselves. That is right for the degree 2,
# the default, and for other even ones. For the degree 1 the distance of (0, 0) and
# (1, -1) is 0, not 2, and it may be negative; for the degree 3 the sum may be negative,
# and its root, the loss and the gradient of a batch NaN. Of 1,000 triplets of normal
# numbers, the loss of degree 1 is wrong for 849, and that of degree 3 is NaN for 694.
#
# Exits 0 while this is so, and 1 when the losses are those of the norms.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 optax==0.2.8
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax


def loss(points, degree):
    return optax.losses.triplet_margin_loss(*points, norm_degree=degree, eps=0.0)


def wanted(points, degree):
    anchors, positives, negatives = np.asarray(points, np.float64)
    near = np.linalg.norm(anchors - positives, degree, axis=-1)
    far = np.linalg.norm(anchors - negatives, degree, axis=-1)
    return np.maximum(near - far + 1, 0)


one = jnp.array([[[0.0, 0.0]], [[1.0, -1.0]], [[3.0, 3.0]]])
print(f"anchor (0, 0), positive (1, -1), negative (3, 3), degree 1: "
      f"loss {loss(one, 1)[0]}, by NumPy {wanted(one, 1)[0]}")
one = jnp.array([[[0.0, 0.0]], [[1.0, -1.0]], [[-2.0, 2.0]]])
print(f"anchor (0, 0), positive (1, -1), negative (-2, 2), degree 1: "
      f"loss {loss(one, 1)[0]}, by NumPy {wanted(one, 1)[0]}")
points = jax.random.normal(jax.random.key(0), (3, 1000, 8))
wrong, nan = {}, {}
for degree in (1, 2, 3, 4):
    found = np.asarray(loss(points, degree))
    nan[degree] = int(np.isnan(found).sum())
    wrong[degree] = int((np.abs(found - wanted(points, degree)) > 1e-3).sum())
    step = jax.grad(lambda points: loss(points, degree).sum())(points)
    print(
        f"degree {degree}: of 1000 losses {wrong[degree]} are off and {nan[degree]} NaN; "
        f"NaN in the gradient: {bool(jnp.isnan(step).any())}"
    )
sys.exit(not (wrong[2] == wrong[4] == 0 and wrong[1] > 500 and nan[3] > 500))
PY
