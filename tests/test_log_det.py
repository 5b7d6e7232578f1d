"""Log-determinants of blocks, against eigenvalues in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from miue_jax._log_det import weighted_log_det


def blocks(scale):
    """Two positive semidefinite blocks, one singular, in shuffled order."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((4, 4)), rng.standard_normal((3, 1))
    matrix = np.zeros((7, 7))
    matrix[:4, :4], matrix[4:, 4:] = (scale * f @ f.T for f in factors)
    order = rng.permutation(7)
    weights = np.array([0.25] * 4 + [2.0] * 3)
    want = sum(
        w * np.sum(np.log1p(np.linalg.eigvalsh(scale * f.T @ f)))
        for w, f in zip((0.25, 2.0), factors, strict=True)
    )
    return matrix[np.ix_(order, order)], weights[order], want


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-2, 1, 1e3])
def test_value_at_every_scale_in_float32(scale):
    matrix, weights, want = blocks(scale)
    found = weighted_log_det(jnp.asarray(matrix), jnp.asarray(weights))
    assert float(found) == pytest.approx(want, rel=2e-5)


def test_derivatives():
    matrix, weights, _ = blocks(0.3)
    with jax.enable_x64(True):
        symmetric = jax.jit(lambda a, w: weighted_log_det(a @ a.T, w))
        root = jnp.asarray(np.linalg.cholesky(matrix + 1e-3 * np.eye(7)))
        # Within blocks only: elsewhere the weights would have to be equal.
        mask = jnp.asarray(matrix @ matrix != 0)

        def inside(a):
            return symmetric(jnp.where(mask, a, 0), jnp.asarray(weights))

        check_grads(inside, (jnp.where(mask, root, 0),), order=1, modes="rev")
        by_weights = jax.grad(lambda w: symmetric(root, w))(jnp.ones(7))
        full = np.linalg.slogdet(np.eye(7) + np.asarray(root @ root.T))[1]
        assert float(jnp.sum(by_weights)) == pytest.approx(full)
