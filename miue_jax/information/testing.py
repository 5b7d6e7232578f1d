"""Contracts of estimators and bounds, for the tests of user-defined ones.

Both checks draw small samples with a fixed seed and raise an AssertionError whose
message is a sentence that says what failed.
"""

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax.information._core import Estimate, Kind

_SIZE, _CLASSES = 128, 2
_CORRELATION, _INFORMATION = 0.8, 1.0217  # of two pairs: -log(1 - 0.8^2) nats
# Two orthogonal unit vectors, equally likely, in noise of variance 1/2: the
# information about which of the two it was, by quadrature.
_TWO_POINTS, _TWO_POINTS_NOISE = 0.3368, 0.5


def check_estimator(
    estimate_fn: Callable[..., Estimate],
    *,
    kind: Kind | None = None,
    labels: bool = False,
    jit: bool = True,
    permutable: bool = True,
    tolerance: float = 2e-3,
    slack: float = 0.3,
) -> None:
    """Checks that a function fulfills the contract of an estimator.

    On normal pairs with 1.02 nats it must return an `Estimate` with a finite value, the
    same when called again, under `jax.jit` and for permuted samples; a "lower" or
    "upper" bound must be on its side of the truth; and samples that do not match, have
    three axes or contain NaN must raise a ValueError.

    Args:
      estimate_fn: maps x (128, 2) and y (128, 2), and labels (128,) in {0, 1} if they
        are asked for, to an `Estimate`. Fix the key of a random estimator.
      kind: the expected ``kind`` of the estimate; None for any.
      labels: whether to pass labels, which say nothing about x and y, as the third
        argument.
      jit: whether the function must work under `jax.jit`, with traced samples.
      permutable: whether the order of the samples must not matter; False for functions
        that split them at random.
      tolerance: relative, for values that must agree.
      slack: nats by which a bound may be on the wrong side of the truth, for the error
        of sampling.

    Raises:
      AssertionError: saying what failed.

    Example:
      >>> from miue_jax.information import estimators, testing
      >>> testing.check_estimator(estimators.gaussian)
      >>> testing.check_estimator(lambda x, y: x.mean())
      Traceback (most recent call last):
        ...
      AssertionError: the estimator returns float32; it must return an Estimate
    """
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, _SIZE, 2)).astype(np.float32)
    y = np.float32(_CORRELATION) * x + np.float32((1 - _CORRELATION**2) ** 0.5) * noise
    classes = (np.arange(_SIZE, dtype=np.int32) % _CLASSES,) if labels else ()
    found = estimate_fn(x, y, *classes)
    _require(
        isinstance(found, Estimate),
        f"the estimator returns {type(found).__name__}; it must return an Estimate",
    )
    for name in ("value", "standard_error"):
        _check_scalar(f"the {name} of the estimate", getattr(found, name))
    value = float(found.value)
    _require(
        np.isfinite(value), f"the estimate of 1.02 nats is {value}; it must be finite"
    )
    allowed = get_args(Kind) if kind is None else (kind,)
    _require(
        found.kind in allowed,
        f"the kind of the estimate is {found.kind!r}; it must be "
        f"{' or '.join(map(repr, allowed))}",
    )
    _check_side("estimate", found.kind, value, _INFORMATION, slack)
    again = functools.partial(_check_equal, value, tolerance=tolerance)
    again(estimate_fn(x, y, *classes).value, "when it is called again")
    if jit:
        jitted = jax.jit(lambda *samples: estimate_fn(*samples))
        again(jitted(x, y, *classes).value, "under jax.jit")
    if permutable:
        order = rng.permutation(_SIZE)
        permuted = estimate_fn(*(each[order] for each in (x, y, *classes)))
        again(permuted.value, "for permuted samples")
    missing = np.where(np.arange(_SIZE) == 3, np.nan, x.T).T
    _check_refused(estimate_fn, (x[:-1], y, *classes), "x one sample shorter than y")
    _check_refused(estimate_fn, (x[None], y[None], *classes), "samples of three axes")
    _check_refused(estimate_fn, (missing, y, *classes), "samples with NaN")


def check_bound(
    bound_fn: Callable[..., jax.Array],
    *,
    kind: Kind | None = None,
    jit: bool = True,
    differentiable: bool = True,
    permutable: bool = True,
    tolerance: float = 1e-3,
) -> None:
    """Checks that a function fulfills the contract of a bound within classes.

    It must return a finite scalar, the same under `jax.jit` and for permuted samples;
    its gradients must be finite, at collapsed features too; it must be on its side of
    the information that two points per class carry in noise, 0.337 nats; and labels
    that do not match or are out of range, features with three axes or NaN and noise
    that is not positive must raise a ValueError.

    Args:
      bound_fn: (features, labels, noise_variance, num_classes) -> (), such as
        `miue_jax.information.bounds.within_class_logdet`. Features are (128, 2).
      kind: "upper" or "lower" for a bound on the information within classes under the
        empirical law of unit features; None for another quantity.
      jit: whether the function must work under `jax.jit`, with traced features, labels
        and noise.
      differentiable: whether gradients by the features must be finite.
      permutable: whether the order of the samples must not matter; False for functions
        that split or pair them at random.
      tolerance: relative, for values that must agree.

    Raises:
      AssertionError: saying what failed.

    Example:
      >>> from miue_jax.information import bounds, testing
      >>> testing.check_bound(bounds.trace_bound, kind="upper")
      >>> testing.check_bound(bounds.trace_bound, kind="lower")
      Traceback (most recent call last):
        ...
      AssertionError: the lower bound is 0.5079; the truth is 0.337 nats
    """
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(_SIZE, dtype=np.int32) % _CLASSES)
    features = rng.standard_normal((_SIZE, 2)).astype(np.float32)
    features += 3 * np.eye(2, dtype=np.float32)[labels]
    noise = np.float32(_TWO_POINTS_NOISE)
    result = bound_fn(features, labels, noise, _CLASSES)
    _check_scalar("the bound", result)
    value = float(result)
    _require(np.isfinite(value), f"the bound is {value}; it must be finite")
    again = functools.partial(_check_equal, value, tolerance=tolerance)
    if jit:
        jitted = jax.jit(lambda *arguments: bound_fn(*arguments, _CLASSES))
        again(jitted(features, labels, noise), "under jax.jit")
    if permutable:
        order = rng.permutation(_SIZE)
        permuted = bound_fn(features[order], labels[order], noise, _CLASSES)
        again(permuted, "for permuted samples")
    if differentiable:
        gradient = jax.grad(lambda z: bound_fn(z, labels, noise, _CLASSES))
        collapsed = np.eye(2, dtype=np.float32)[labels]
        for what, points in (("random", features), ("collapsed", collapsed)):
            _require(
                np.all(np.isfinite(gradient(jnp.asarray(points)))),
                f"the gradient at {what} features is not finite",
            )
    if kind in ("lower", "upper"):
        # Each class has the two points equally often.
        points = np.eye(2, dtype=np.float32)[np.arange(_SIZE) // 2 % 2]
        classes = np.arange(_SIZE, dtype=np.int32) % 2
        value = float(bound_fn(points, classes, noise, _CLASSES))
        _check_side("bound", kind, value, _TWO_POINTS, 1e-3)
    missing = np.where(np.arange(_SIZE) == 3, np.nan, features.T).T
    for arguments, what in (
        ((features, labels[:-1], noise), "fewer labels than features"),
        ((features, labels + 1, noise), "a label that is not below num_classes"),
        ((features[None], labels, noise), "features of three axes"),
        ((missing, labels, noise), "features with NaN"),
        ((features, labels, np.float32(-1)), "a negative noise_variance"),
    ):
        _check_refused(bound_fn, (*arguments, _CLASSES), what)


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _check_scalar(what: str, value: Any) -> None:
    shape, dtype = np.shape(value), jnp.result_type(value)
    _require(
        shape == () and jnp.issubdtype(dtype, jnp.floating),
        f"{what} is {dtype} of shape {shape}; it must be a floating-point scalar",
    )


def _check_equal(value: float, other: Any, when: str, *, tolerance: float) -> None:
    _require(
        abs(float(other) - value) <= tolerance * (1 + abs(value)),
        f"the value is {value:.6g}, but {float(other):.6g} {when}",
    )


def _check_side(what: str, kind: str, value: float, truth: float, slack: float) -> None:
    wrong = {"lower": value > truth + slack, "upper": value < truth - slack}
    _require(
        not wrong.get(kind, False),
        f"the {kind} {what} is {value:.4f}; the truth is {truth:.3f} nats",
    )


def _check_refused(function: Callable[..., Any], arguments: Any, what: str) -> None:
    try:
        function(*arguments)
    except ValueError:
        return
    except Exception as error:
        raise AssertionError(
            f"{what} must raise a ValueError, but raised {error!r}"
        ) from error
    raise AssertionError(f"{what} must raise a ValueError, but none was raised")
