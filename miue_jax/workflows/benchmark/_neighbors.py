"""Kraskov's estimate by the library and by others that search for neighbors."""

import numpy as np

from miue_jax.workflows.benchmark._work import Work

NEIGHBORS = 5


def _samples(size: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, size, dim), np.float32)
    return x, 0.8 * x + 0.6 * noise


def ours(size: int, dim: int) -> Work:
    """`miue_jax.information.estimators.ksg`."""
    from miue_jax.information import estimators

    x, y = _samples(size, dim)
    return Work(lambda: float(estimators.ksg(x, y, neighbors=NEIGHBORS).value), float)


def scikit_learn(size: int, dim: int) -> Work:
    """scikit-learn's, of one dimension."""
    from sklearn.feature_selection import mutual_info_regression

    x, y = _samples(size, dim)

    def run() -> float:
        found = mutual_info_regression(
            x, y[:, 0], discrete_features=False, n_neighbors=NEIGHBORS, random_state=0
        )
        return float(found[0])

    return Work(run, float)


def scipy_tree(size: int, dim: int) -> Work:
    """Written with SciPy's tree, in the maximum norm, as most programs have it."""
    from scipy.spatial import KDTree
    from scipy.special import digamma

    x, y = _samples(size, dim)

    def run() -> float:
        joint = np.concatenate([x, y], 1)
        far = KDTree(joint).query(joint, NEIGHBORS + 1, p=np.inf)[0][:, -1]
        # Strictly closer, and without the sample itself.
        near = np.nextafter(far, 0)
        counts = [
            KDTree(z).query_ball_point(z, near, p=np.inf, return_length=True)
            for z in (x, y)
        ]
        terms = sum(np.mean(digamma(count)) for count in counts)
        return float(digamma(NEIGHBORS) + digamma(size) - terms)

    return Work(run, float)


def infomeasure(size: int, dim: int) -> Work:
    """infomeasure's, in its default norm."""
    import infomeasure as im  # pyrefly: ignore

    x, y = _samples(size, dim)
    return Work(
        lambda: float(im.mutual_information(x, y, approach="ksg", k=NEIGHBORS)), float
    )
