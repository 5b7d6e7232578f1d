"""Continuous tasks in closed form: Gaussian, Student-t and additive uniform noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from miue_jax._arguments import check_real, check_scalar
from miue_jax.information._core import check_counts
from miue_jax.information.tasks.task import Task


def gaussian(name: str, covariance: ArrayLike, *, dim_x: int) -> Task:
    r"""Two blocks of one Gaussian vector of mean 0.

    .. math:: I(x; y) = \tfrac12 \log \frac{\det\Sigma_x \det\Sigma_y}{\det\Sigma}

    Args:
      name: name of the task.
      covariance: (dim_x + dim_y, dim_x + dim_y), positive definite; not traced.
      dim_x: size of the first block, which is x.

    Returns:
      The task.

    Raises:
      ValueError: for a matrix that is not square, symmetric and positive definite, or
        an empty block.

    Example:
      >>> import numpy as np
      >>> from miue_jax.information import tasks
      >>> task = tasks.gaussian("pair", np.array([[1.0, 0.6], [0.6, 1.0]]), dim_x=1)
      >>> round(task.information, 4)  # -log(1 - 0.6^2) / 2
      0.2231

    References:
      Cover and Thomas, Elements of Information Theory, section 8.5.
    """
    check_real("covariance", covariance)
    check_counts(dim_x=dim_x)
    sigma = np.asarray(covariance, np.float64)
    if sigma.ndim != 2 or sigma.shape[0] != sigma.shape[1]:
        raise ValueError(f"the covariance has shape {sigma.shape}; it must be square")
    total = len(sigma)
    if not 0 < dim_x < total:
        raise ValueError(f"dim_x must be above 0 and below {total}, given {dim_x}")
    if not np.all(np.isfinite(sigma)):
        raise ValueError("the covariance holds NaN or infinity; it must be finite")
    if not np.allclose(sigma, sigma.T) or np.linalg.eigvalsh(sigma).min() <= 0:
        raise ValueError(
            "the covariance must be symmetric and positive definite; its smallest "
            f"eigenvalue is {np.linalg.eigvalsh(sigma).min()}"
        )
    factor = np.linalg.cholesky(sigma)
    # z' (sum of the blocks' inverses - whole inverse) z / 2 is the quadratic part.
    precision = -np.linalg.inv(sigma)
    information = -0.5 * _logdet(sigma)
    for block in (slice(0, dim_x), slice(dim_x, total)):
        precision[block, block] += np.linalg.inv(sigma[block, block])
        information += 0.5 * _logdet(sigma[block, block])

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        z = jax.random.normal(key, (size, total)) @ jnp.asarray(factor).T
        return z[:, :dim_x], z[:, dim_x:]

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        z = jnp.concatenate([x, y], axis=1)
        return information + 0.5 * jnp.sum((z @ jnp.asarray(precision)) * z, axis=1)

    dim_y = total - dim_x
    return Task(name, sample, information, 0.0, dim_x, dim_y, pointwise=pointwise)


def bivariate(correlation: float) -> Task:
    """Two standard normal variables: I = -log(1 - rho^2) / 2.

    Args:
      correlation: rho, between -1 and 1.

    Returns:
      The task `1v1-normal-<rho>`.

    Raises:
      ValueError: unless rho lies strictly between -1 and 1.

    Example:
      >>> from miue_jax.information import tasks
      >>> task = tasks.bivariate(0.75)
      >>> task.name, round(task.information, 4)
      ('1v1-normal-0.75', 0.4133)
    """
    check_scalar("correlation", correlation)
    covariance = np.array([[1, correlation], [correlation, 1]])
    return gaussian(f"1v1-normal-{correlation}", covariance, dim_x=1)


def dense(dim_x: int, dim_y: int, *, correlation: float = 0.5) -> Task:
    """Standard normal coordinates, every two of them equally correlated.

    Args:
      dim_x: coordinates of x.
      dim_y: coordinates of y.
      correlation: correlation of any two coordinates, within x, within y and between
        them.

    Returns:
      The task `multinormal-dense-<dim_x>-<dim_y>-<correlation>`.

    Raises:
      ValueError: if such a covariance is not positive definite.

    Example:
      >>> from miue_jax.information import tasks
      >>> round(tasks.dense(25, 25).information, 4)
      1.2922
    """
    check_counts(dim_x=dim_x, dim_y=dim_y)
    check_scalar("correlation", correlation)
    total = dim_x + dim_y
    covariance = (1 - correlation) * np.eye(total) + correlation
    name = f"multinormal-dense-{dim_x}-{dim_y}-{correlation}"
    return gaussian(name, covariance, dim_x=dim_x)


def sparse(dim_x: int, dim_y: int, *, pairs: int = 2, strength: float = 2.0) -> Task:
    r"""Standard normal coordinates of which the first few are correlated pairwise.

    A pair shares a latent variable with `strength` times the standard deviation of the
    independent noise on either side: the correlation is s^2 / (1 + s^2).

    Args:
      dim_x: coordinates of x.
      dim_y: coordinates of y.
      pairs: x_i is correlated with y_i for i < pairs, all else is independent.
      strength: s.

    Returns:
      The task `multinormal-sparse-<dim_x>-<dim_y>-<pairs>-<strength>`.

    Raises:
      ValueError: for more pairs than coordinates.

    Example:
      >>> from miue_jax.information import tasks
      >>> round(tasks.sparse(25, 25).information, 4)  # -log(1 - 0.8^2)
      1.0217

    References:
      Czyz et al., Beyond Normal: On the Evaluation of Mutual Information Estimators,
      NeurIPS 2023, the two-pair tasks.
    """
    check_counts(dim_x=dim_x, dim_y=dim_y)
    check_scalar("strength", strength)
    if not isinstance(pairs, int | np.integer) or not 0 <= pairs <= min(dim_x, dim_y):
        raise ValueError(
            f"pairs must be a whole number between 0 and {min(dim_x, dim_y)}, given "
            f"{pairs}"
        )
    covariance = np.eye(dim_x + dim_y)
    index = np.arange(pairs)
    correlation = strength**2 / (1 + strength**2)
    covariance[index, dim_x + index] = covariance[dim_x + index, index] = correlation
    name = f"multinormal-sparse-{dim_x}-{dim_y}-{pairs}-{strength}"
    return gaussian(name, covariance, dim_x=dim_x)


def student(dim_x: int, dim_y: int, *, degrees: int) -> Task:
    r"""Two blocks of a Student-t vector with identity dispersion.

    All coordinates share one scale, so that large values coincide although the
    coordinates are uncorrelated and the Gaussian part of the information is 0. With
    :math:`f(v) = \log\Gamma(v/2) - \tfrac v2 \psi(v/2)`,

    .. math:: I(x; y) = f(\nu) + f(\nu + m + n) - f(\nu + m) - f(\nu + n)

    for m and n coordinates and nu degrees of freedom.

    Args:
      dim_x: m.
      dim_y: n.
      degrees: nu, an integer; the variance is infinite up to 2, the mean undefined at
        1.

    Returns:
      The task `student-identity-<m>-<n>-<nu>`.

    Raises:
      ValueError: if a number is not a positive integer.

    Example:
      >>> from miue_jax.information import tasks
      >>> round(tasks.student(1, 1, degrees=1).information, 4)
      0.2242

    References:
      Arellano-Valle et al., Shannon Entropy and Mutual Information for Multivariate
      Skew-Elliptical Distributions, 2013; Czyz et al., Beyond Normal, NeurIPS 2023.
    """
    check_counts(dim_x=dim_x, dim_y=dim_y, degrees=degrees)

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        key_normal, key_scale = jax.random.split(key)
        z = jax.random.normal(key_normal, (size, dim_x + dim_y))
        # The mean square of nu normals compiles far faster than a gamma variate.
        scale = jax.random.normal(key_scale, (size, degrees))
        z /= jnp.sqrt(jnp.mean(scale**2, axis=1, keepdims=True))
        return z[:, :dim_x], z[:, dim_x:]

    def log_density(points: jax.Array) -> jax.Array:
        dim = points.shape[1]
        power = (degrees + dim) / 2
        constant = math.lgamma(power) - math.lgamma(degrees / 2)
        constant -= dim / 2 * math.log(degrees * math.pi)
        return constant - power * jnp.log1p(jnp.sum(points**2, axis=1) / degrees)

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        both = jnp.concatenate([x, y], axis=1)
        return log_density(both) - log_density(x) - log_density(y)

    def entropy_term(degrees: int) -> float:
        half = degrees / 2
        return math.lgamma(half) - half * _digamma(half)

    information = (
        entropy_term(degrees)
        + entropy_term(degrees + dim_x + dim_y)
        - entropy_term(degrees + dim_x)
        - entropy_term(degrees + dim_y)
    )
    name = f"student-identity-{dim_x}-{dim_y}-{degrees}"
    return Task(name, sample, information, 0.0, dim_x, dim_y, pointwise=pointwise)


def additive(epsilon: float) -> Task:
    r"""X uniform on [0, 1], y = x + noise uniform on [-eps, eps].

    .. math:: I(x; y) = \epsilon - \log 2\epsilon \ (\epsilon \le \tfrac12),
              \quad \frac{1}{4\epsilon} \ (\epsilon > \tfrac12)

    Args:
      epsilon: half width of the noise, > 0.

    Returns:
      The task `1v1-additive-<epsilon>`.

    Raises:
      ValueError: if epsilon is not positive.

    Example:
      >>> from miue_jax.information import tasks
      >>> round(tasks.additive(0.75).information, 4)  # 1 / 3
      0.3333

    References:
      Czyz et al., Beyond Normal, NeurIPS 2023, the additive-noise task.
    """
    check_scalar("epsilon", epsilon)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon must be > 0 and finite, given {epsilon}")

    def sample(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        key_x, key_noise = jax.random.split(key)
        x = jax.random.uniform(key_x, (size, 1))
        noise = jax.random.uniform(
            key_noise, (size, 1), minval=-epsilon, maxval=epsilon
        )
        return x, x + noise

    def pointwise(x: jax.Array, y: jax.Array) -> jax.Array:
        # p(y | x) = 1 / (2 eps); p(y) is that times the x that can have led to y.
        low, high = jnp.maximum(y - epsilon, 0), jnp.minimum(y + epsilon, 1)
        del x
        return -jnp.log(high - low)[:, 0]

    small = epsilon <= 0.5
    information = epsilon - math.log(2 * epsilon) if small else 1 / (4 * epsilon)
    name = f"1v1-additive-{epsilon}"
    return Task(name, sample, information, 0.0, 1, 1, pointwise=pointwise)


def _logdet(matrix: np.ndarray) -> float:
    return float(np.linalg.slogdet(matrix)[1])


def _digamma(value: float) -> float:
    """For positive arguments, to double precision."""
    shift = 0.0
    while value < 12:  # the series below is exact to 1e-16 from here
        shift -= 1 / value
        value += 1
    square = 1 / value**2
    series = 1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240)))
    return shift + math.log(value) - 1 / (2 * value) - square * series
