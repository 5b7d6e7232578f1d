r"""Neural tangent kernels in closed form, and gradient descent with them.

A kernel is computed layer by layer, from two covariances of each pair of images: that
of the outputs at initialization and, as the tangent kernel, that of the outputs'
gradients. Weights have the NTK parametrization: a layer with d inputs is
:math:`\sigma_w W x / \sqrt d + \sigma_b b` with standard normal W and b.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_WINDOW, _STRIDE = 5, 2  # of the convolutions, with "SAME" padding
_DOUBLINGS = 30  # of the time of gradient descent


class TangentKernel(NamedTuple):
    """The tangent kernel of an infinitely wide network, as pure functions.

    Attributes:
      patches: (B, H, W, C) images -> (B, P, D), the inputs of its first layer.
      compare: patches (A, P, D) and (B, P, D) -> (A, B), the kernel of every pair. Its
        gradient is finite, even where images or patches coincide.
    """

    patches: Callable[[jax.Array], jax.Array]
    compare: Callable[[jax.Array, jax.Array], jax.Array]


class _Pairs(NamedTuple):
    cross: jax.Array  # (P, A, B), covariances of the outputs
    tangent: jax.Array  # (P, A, B), of their gradients
    left: jax.Array  # (P, A), variances of the outputs
    right: jax.Array  # (P, B)


def fully_connected(
    *, weight_variance: float, bias_variance: float, layers: int = 5
) -> TangentKernel:
    r"""The kernel of dense layers that each end in the error function.

    Args:
      weight_variance: :math:`\sigma_w^2`.
      bias_variance: :math:`\sigma_b^2`.
      layers: number of layers.

    Returns:
      The kernel; an image is one patch.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.generators import tangent_kernel
      >>> kernel = tangent_kernel.fully_connected(weight_variance=1, bias_variance=0)
      >>> patches = kernel.patches(jnp.ones((2, 4, 4, 3)))
      >>> kernel.compare(patches, patches).shape
      (2, 2)

    References:
      Williams, Computing with Infinite Networks, NIPS 1996 (covariance of Erf).
      Jacot, Gabriel, Hongler, Neural Tangent Kernel, NeurIPS 2018.
    """

    def compare(a: jax.Array, b: jax.Array) -> jax.Array:
        pairs = _inputs(a, b)
        for _ in range(layers):
            pairs = _erf(_linear(pairs, weight_variance, bias_variance))
        return pairs.tangent[0]

    def patches(images: jax.Array) -> jax.Array:
        return images.reshape(len(images), 1, -1)

    return TangentKernel(patches, compare)


def convolutional(
    image_shape: tuple[int, ...], *, weight_variance: float, bias_variance: float
) -> TangentKernel:
    r"""The kernel of two 5x5 convolutions of stride 2, then three dense layers.

    A ReLU follows each convolution; the dense layers are linear. Since the positions
    are flattened, not averaged, only covariances at equal positions matter.

    Args:
      image_shape: (H, W, C).
      weight_variance: :math:`\sigma_w^2`.
      bias_variance: :math:`\sigma_b^2`, > 0: otherwise the angle between black patches
        is undefined.

    Returns:
      The kernel; the patches are those of the first convolution.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.generators import tangent_kernel
      >>> kernel = tangent_kernel.convolutional(
      ...     (8, 8, 3), weight_variance=1, bias_variance=0.1
      ... )
      >>> kernel.patches(jnp.ones((2, 8, 8, 3))).shape  # 4x4 positions, 5x5x3 values
      (2, 16, 75)

    References:
      Cho, Saul, Kernel Methods for Deep Learning, NIPS 2009 (covariance of ReLU).
      Arora et al., On Exact Computation with an Infinitely Wide Neural Net, NeurIPS
      2019, section 4.
    """
    first = [_windows(size) for size in image_shape[:2]]
    second = np.kron(*[_windows(len(windows)) for windows in first])
    pads = [(0, 0), *map(_padding, image_shape[:2]), (0, 0)]

    def patches(images: jax.Array) -> jax.Array:
        padded = jnp.pad(images, pads)
        rows, columns = (_STRIDE * len(windows) for windows in first)
        # Slices and not a convolution, whose gradient is slow in a loop on CPU.
        seen = [
            padded[:, i : i + rows : _STRIDE, j : j + columns : _STRIDE]
            for i in range(_WINDOW)
            for j in range(_WINDOW)
        ]
        return jnp.stack(seen, 3).reshape(len(images), len(second.T), -1)

    def convolve(pairs: _Pairs) -> _Pairs:
        average = jnp.asarray(second / _WINDOW**2, pairs.cross.dtype)

        def pool(values: jax.Array) -> jax.Array:
            return jnp.einsum(
                "qp,p...->q...", average, values, precision=lax.Precision.HIGHEST
            )

        pooled = jax.tree.map(pool, pairs)
        return _linear(pooled, weight_variance, bias_variance)

    def compare(a: jax.Array, b: jax.Array) -> jax.Array:
        pairs = _relu(_linear(_inputs(a, b), weight_variance, bias_variance))
        pairs = _relu(convolve(pairs))
        pairs = jax.tree.map(lambda x: jnp.mean(x, 0, keepdims=True), pairs)
        for _ in range(3):
            pairs = _linear(pairs, weight_variance, bias_variance)
        return pairs.tangent[0]

    return TangentKernel(patches, compare)


def descent_coefficients(
    kernel: jax.Array, targets: jax.Array, *, time: float, regularization: float
) -> jax.Array:
    r"""The coefficients a of what gradient descent learns, f(x) = k(x, X) a.

    .. math:: a = A^{-1} \bigl(I - e^{-t A / (n K)}\bigr) Y, \qquad
              A = k(X, X) + r\, \mathrm{mean}(\operatorname{diag} k(X, X))\, I

    This is gradient flow from f = 0 on mean((f - Y)^2) / 2 over the n K values, for
    time t. The coefficients are computed for a billionth of the time and doubled: this
    needs no inverse and no eigenvectors, whose gradient has poles where eigenvalues
    coincide.

    Args:
      kernel: (n, n), k(X, X), the tangent kernel of the training images.
      targets: (n, K), Y.
      time: t, the learning rate times the number of steps.
      regularization: r, relative to the mean of the diagonal.

    Returns:
      (n, K).

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.generators import tangent_kernel
      >>> coefficients = tangent_kernel.descent_coefficients(
      ...     2 * jnp.eye(3), jnp.ones((3, 1)), time=1e4, regularization=0.0
      ... )
      >>> [round(float(a), 3) for a in coefficients[:, 0]]  # Y / 2
      [0.5, 0.5, 0.5]

    References:
      Lee et al., Wide Neural Networks of Any Depth Evolve as Linear Models Under
      Gradient Descent, NeurIPS 2019, section 2.2.
    """
    ridge = regularization * jnp.mean(jnp.diagonal(kernel))
    regular = kernel + ridge * jnp.eye(len(kernel), dtype=kernel.dtype)
    rate = time / targets.size / 2**_DOUBLINGS

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.dot(a, b, precision=lax.Precision.HIGHEST)

    def double(
        carry: tuple[jax.Array, jax.Array], _: None
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        # It holds 1 - exp, because exp is at first 1 up to rounding.
        learned, coefficients = carry
        coefficients = 2 * coefficients - dot(learned, coefficients)
        return (2 * learned - dot(learned, learned), coefficients), None

    small = rate * regular
    start = small - dot(small, small) / 2, rate * (targets - dot(small, targets) / 2)
    (_, coefficients), _ = lax.scan(double, start, None, length=_DOUBLINGS)
    return coefficients


def _padding(size: int) -> tuple[int, int]:
    missing = max((-(-size // _STRIDE) - 1) * _STRIDE + _WINDOW - size, 0)
    return missing // 2, missing - missing // 2


def _windows(size: int) -> np.ndarray:
    """The inputs that each output of a convolution depends on, (outputs, inputs)."""
    starts = _STRIDE * np.arange(-(-size // _STRIDE)) - _padding(size)[0]
    offsets = np.arange(size) - starts[:, None]
    return ((offsets >= 0) & (offsets < _WINDOW)).astype(float)


def _inputs(a: jax.Array, b: jax.Array) -> _Pairs:
    scale = 1 / a.shape[-1]
    cross = jnp.einsum("apd,bpd->pab", a, b, precision=lax.Precision.HIGHEST) * scale
    left, right = (jnp.sum(jnp.square(x), -1).T * scale for x in (a, b))
    return _Pairs(cross, jnp.zeros_like(cross), left, right)


def _linear(pairs: _Pairs, weight_variance: float, bias_variance: float) -> _Pairs:
    """Applies the weights and biases of a layer to averages over its inputs."""
    cross, left, right = (
        weight_variance * x + bias_variance
        for x in (pairs.cross, pairs.left, pairs.right)
    )
    return _Pairs(cross, cross + weight_variance * pairs.tangent, left, right)


def _erf(pairs: _Pairs) -> _Pairs:
    left, right = 1 + 2 * pairs.left, 1 + 2 * pairs.right
    product = left[:, :, None] * right[:, None, :]
    slope = 4 / np.pi / jnp.sqrt(product - 4 * jnp.square(pairs.cross))
    return _Pairs(
        2 / np.pi * jnp.arcsin(2 * pairs.cross / jnp.sqrt(product)),
        slope * pairs.tangent,
        2 / np.pi * jnp.arcsin(2 * pairs.left / left),
        2 / np.pi * jnp.arcsin(2 * pairs.right / right),
    )


def _relu(pairs: _Pairs) -> _Pairs:
    scale = jnp.sqrt(pairs.left[:, :, None] * pairs.right[:, None, :])
    cosine = pairs.cross / scale
    return _Pairs(
        scale * _covariance(cosine),
        _slope(cosine) * pairs.tangent,
        pairs.left / 2,
        pairs.right / 2,
    )


@jax.custom_jvp
def _covariance(cosine: jax.Array) -> jax.Array:
    """E[relu(u) relu(v)] of standard normals: (sin a + (pi - a) cos a) / (2 pi)."""
    angle, sine = _angle(cosine)
    return (sine + (np.pi - angle) * cosine) / (2 * np.pi)


@_covariance.defjvp
def _covariance_jvp(primals, tangents):
    # Differentiated term by term it would be the difference of two poles.
    (cosine,), (change,) = primals, tangents
    return _covariance(cosine), _slope(cosine) * change


@jax.custom_jvp
def _slope(cosine: jax.Array) -> jax.Array:
    """E[relu'(u) relu'(v)] of standard normals: (pi - a) / (2 pi)."""
    return (np.pi - _angle(cosine)[0]) / (2 * np.pi)


@_slope.defjvp
def _slope_jvp(primals, tangents):
    (cosine,), (change,) = primals, tangents
    sine = _angle(cosine)[1]
    # The angle of an image to itself stays 0 however it changes, so the derivative is
    # taken as 0 at its pole.
    derivative = jnp.where(sine > 0, 1 / jnp.where(sine > 0, sine, 1), 0)
    return _slope(cosine), derivative / (2 * np.pi) * change


def _angle(cosine: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The angle and its sine, both 0 within rounding of where patches coincide."""
    squared = (1 - cosine) * (1 + cosine)
    apart = squared > 16 * jnp.finfo(cosine.dtype).eps
    sine = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    return jnp.arctan2(sine, cosine), sine
