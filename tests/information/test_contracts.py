"""One table that every estimator runs through, one for every bound, and the checks."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import miue_jax.information
from miue_jax.information import Estimate, bounds, estimators, tasks, testing

SMALL = estimators.FitConfig(
    hidden=8, depth=1, batch_size=16, max_steps=8, steps_per_round=4, patience=2
)
KEY = jax.random.key(0)

# What to add to the defaults of `check_estimator`, and the options of the estimator.
TRAINED = {"permutable": False}  # they split the samples at random
WITHIN = {"labels": True}
ESTIMATORS = {
    "ksg": ("estimate", {}, {}),
    "ksg_conditional": ("estimate", WITHIN, {}),
    "ross": ("estimate", WITHIN, {}),
    "gaussian": ("estimate", {}, {}),
    "copula": ("estimate", {}, {}),
    "class_conditional_gaussian": ("estimate", WITHIN, {}),
    "sliced": ("lower", {}, {"num_slices": 4}),
    "infonce": ("lower", TRAINED, {"config": SMALL}),
    "nwj": ("lower", TRAINED, {"config": SMALL}),
    "dv": ("lower", TRAINED, {"config": SMALL}),
    "smile": ("estimate", TRAINED, {"config": SMALL}),
    "club": ("estimate", TRAINED, {"config": SMALL}),
    "renyi": ("estimate", {}, {"alpha": 2.0}),
}


def test_every_estimator_is_in_the_table():
    assert set(ESTIMATORS) == set(estimators.NAMES)


@pytest.mark.parametrize(
    "name",
    [
        # Trained like infonce, but for the bound.
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("nwj", "dv", "smile")
        else name
        for name in ESTIMATORS
    ],
)
def test_estimators_fulfill_their_contract(name):
    kind, contract, options = ESTIMATORS[name]

    def estimate(x, y, labels=None):
        return estimators.estimate(
            name, x, y, key=KEY, labels=labels, num_classes=2, **options
        )

    testing.check_estimator(estimate, kind=kind, **contract)


# Bounds of other arguments, as functions of labeled features and noise.


def hadamard(features, labels, noise_variance, num_classes):
    basis = jnp.array([[1.0], [0.0]])
    return bounds.hadamard_bound(features, labels, basis, noise_variance, num_classes)


def split_hadamard(features, labels, noise_variance, num_classes):
    basis = bounds.principal_basis(features, labels, 1, num_classes)
    return bounds.hadamard_bound(features, labels, basis, noise_variance, num_classes)


def mean_cosine(features, labels, noise_variance, num_classes):
    bounds.trace_bound(features, labels, noise_variance, num_classes)  # checks noise
    return jnp.mean(bounds.intra_class_cosine(features, labels, num_classes))


def certified(side, features, labels, noise_variance, num_classes):
    limits = bounds.cosine_confidence(KEY, features, labels, num_classes)
    found = bounds.certified_bounds(limits, noise_variance, features.shape[1])
    return getattr(found, side)


def of_moments(bound, features, labels, noise_variance, num_classes):
    moments = bounds.class_moments(features, labels, num_classes)
    return bound(*moments, noise_variance=noise_variance)


def label_side(side, *moments, noise_variance):
    found = bounds.label_information_bounds(*moments, noise_variance=noise_variance)
    return getattr(found, side)


def bracket_side(side, features, labels, noise_variance, num_classes):
    within = bounds.within_class_logdet(features, labels, noise_variance, num_classes)
    losses = bounds.floored_cross_entropy(features, labels)
    loss = bounds.held_out_cross_entropy(losses, largest_loss=8.0)
    prior = jnp.full(num_classes, 1 / num_classes)
    found = bounds.bracket(bounds.label_entropy(prior), loss, loss, within)
    return getattr(found, side)


def fano(features, labels, noise_variance, num_classes):
    within = bounds.within_class_logdet(features, labels, noise_variance, num_classes)
    accuracy = bounds.fano_accuracy(within, 10)
    return bounds.fano_information(accuracy, 10)


UPPER, LOWER = {"kind": "upper"}, {"kind": "lower"}
BOUNDS = {
    "within_class_logdet": (bounds.within_class_logdet, UPPER),
    "hadamard_bound": (hadamard, UPPER),
    "principal_basis": (split_hadamard, UPPER),
    "amgm_bound": (bounds.amgm_bound, UPPER),
    "trace_bound": (bounds.trace_bound, UPPER),
    "cosine_bound": (bounds.cosine_bound, UPPER),
    "linear_bound": (bounds.linear_bound, UPPER),
    "cosine_lse": (bounds.cosine_lse, UPPER),
    "cosine_lse_lower": (bounds.cosine_lse_lower, LOWER),
    "reidentification_accuracy": (bounds.reidentification_accuracy, {}),
    "intra_class_cosine": (mean_cosine, {}),
    # The key pairs samples by their position.
    "cosine_confidence": (
        functools.partial(certified, "linear"),
        UPPER | {"permutable": False},
    ),
    "certified_bounds": (
        functools.partial(certified, "cosine"),
        UPPER | {"permutable": False},
    ),
    "class_moments": (functools.partial(of_moments, bounds.rate_reduction), {}),
    "rate_reduction": (functools.partial(of_moments, bounds.rate_reduction), {}),
    "label_information_bounds": (
        functools.partial(of_moments, functools.partial(label_side, "upper")),
        {},
    ),
    "LabelBounds.lower": (
        functools.partial(of_moments, functools.partial(label_side, "lower")),
        {},
    ),
    "bracket": (functools.partial(bracket_side, "upper"), {}),
    "Bracket.lower": (functools.partial(bracket_side, "lower"), {}),
    "fano_accuracy": (fano, {}),
}
# Used by those above, with arguments of other kinds.
PARTS = {
    "empirical_bernstein_radius",
    "fano_information",
    "floored_cross_entropy",
    "held_out_cross_entropy",
    "label_entropy",
}


def test_every_bound_is_in_the_table():
    functions = {name for name in bounds.__all__ if name[0].islower()}
    assert functions == {name for name in BOUNDS if name[0].islower()} | PARTS


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_fulfill_their_contract(name):
    bound, contract = BOUNDS[name]
    testing.check_bound(bound, **contract)


# The checks themselves ----------------------------------------------------------------


def test_the_truths_of_the_checks():
    pair = tasks.noisy_points("pair", np.eye(2), noise_variance=0.5)
    assert abs(pair.information - 0.3368) < 1e-4
    assert abs(2 * tasks.bivariate(0.8).information - 1.0217) < 1e-4


def good(x, y):
    """The contract in a few lines, as a user would write it."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError("x and y must be (N, D)")
    if not isinstance(x, jax.core.Tracer) and not bool(jnp.all(jnp.isfinite(x))):
        raise ValueError("x is not finite")
    return Estimate(jnp.mean(x * y), jnp.asarray(jnp.nan), "estimate")


def spoiled(**changes):
    def estimate(x, y):
        found = good(x, y)
        fields = {k: v(x, found) if callable(v) else v for k, v in changes.items()}
        return Estimate(
            **{
                "value": found.value,
                "standard_error": found.standard_error,
                "kind": "estimate",
                **fields,
            }
        )

    return estimate


def careless(condition, error=None):
    """An estimator that accepts bad samples, or raises something else."""

    def estimate(x, y):
        if condition(np.asarray(x), np.asarray(y)):
            if error is not None:
                raise error
            return Estimate(jnp.ones(()), jnp.ones(()), "estimate")
        return good(x, y)

    return estimate


def counted():
    calls = iter(range(100))
    return spoiled(value=lambda x, found: found.value + next(calls))


def test_a_user_defined_estimator_passes():
    testing.check_estimator(good, kind="estimate")


@pytest.mark.parametrize(
    ("estimate", "options", "message"),
    [
        (lambda x, y: 1.0, {}, "returns float; it must return an Estimate"),
        (spoiled(value=jnp.ones(3)), {}, r"value of the estimate is float32 of shape"),
        (spoiled(standard_error=jnp.ones((), int)), {}, "standard_error of the estim"),
        (spoiled(value=jnp.asarray(jnp.inf)), {}, "is inf; it must be finite"),
        (spoiled(kind="bound"), {}, "kind of the estimate is 'bound'; it must be"),
        (good, {"kind": "lower"}, "kind of the estimate is 'estimate'; it must be"),
        (
            spoiled(kind="lower", value=lambda x, found: found.value + 2),
            {},
            "the lower estimate is .*; the truth is 1.022 nats",
        ),
        (
            spoiled(kind="upper", value=lambda x, found: found.value - 2),
            {},
            "the upper estimate is .*; the truth is 1.022 nats",
        ),
        (counted(), {}, "when it is called again"),
        (
            spoiled(value=lambda x, found: found.value + isinstance(x, jax.Array)),
            {},
            "under jax.jit",
        ),
        (spoiled(value=lambda x, found: x[0, 0]), {}, "for permuted samples"),
        (careless(lambda x, y: len(x) != len(y)), {"jit": False}, "one sample shorter"),
        (careless(lambda x, y: x.ndim == 3), {"jit": False}, "three axes"),
        (careless(lambda x, y: np.isnan(x).any()), {"jit": False}, "NaN"),
        (
            careless(lambda x, y: x.ndim == 3, TypeError("no")),
            {"jit": False},
            r"three axes must raise a ValueError, but raised TypeError\('no'\)",
        ),
    ],
)
def test_what_an_estimator_breaks_is_said(estimate, options, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_estimator(estimate, **options)


def test_random_splits_and_eager_estimators_can_be_excused():
    testing.check_estimator(
        spoiled(value=lambda x, found: x[0, 0]), permutable=False, kind="estimate"
    )
    testing.check_estimator(
        spoiled(value=lambda x, found: found.value + isinstance(x, jax.Array)),
        jit=False,
    )


def bent(change):
    """The trace bound, changed."""

    def bound(features, labels, noise_variance, num_classes):
        value = bounds.trace_bound(features, labels, noise_variance, num_classes)
        return change(value, features, labels)

    return bound


def hidden(condition):
    """A bound that accepts bad arguments."""

    def bound(features, labels, noise_variance, num_classes):
        if condition(features, labels, noise_variance):
            return jnp.ones(())
        return bounds.trace_bound(features, labels, noise_variance, num_classes)

    return bound


@pytest.mark.parametrize(
    ("bound", "options", "message"),
    [
        (bent(lambda v, f, c: v * jnp.ones(2)), {}, r"the bound is float32 of shape"),
        (bent(lambda v, f, c: v / 0), {}, "the bound is inf; it must be finite"),
        (
            bent(lambda v, f, c: v + isinstance(f, jax.core.Tracer)),
            {},
            "under jax.jit",
        ),
        (bent(lambda v, f, c: v + f[0, 0]), {}, "for permuted samples"),
        (
            bent(lambda v, f, c: jnp.sqrt(v)),
            {},
            "gradient at collapsed features is not finite",
        ),
        (
            bent(lambda v, f, c: v + 0 * jnp.sum(jnp.sqrt(f - f))),
            {},
            "gradient at random features is not finite",
        ),
        (bent(lambda v, f, c: v / 2), UPPER, "the upper bound is 0.25.*0.337 nats"),
        (bounds.amgm_bound, LOWER, "the lower bound is 0.41.*0.337 nats"),
        (
            hidden(lambda f, c, n: len(f) == len(c) + 1),
            {"jit": False},
            "fewer labels than features must raise a ValueError, but none was raised",
        ),
        (
            hidden(lambda f, c, n: len(f) == len(c) and np.max(c) == 2),
            {"jit": False},
            "a label that is not below num_classes",
        ),
        (hidden(lambda f, c, n: np.ndim(f) == 3), {}, "features of three axes"),
        (
            hidden(lambda f, c, n: isinstance(f, np.ndarray) and np.isnan(f).any()),
            {},
            "features with NaN",
        ),
        (
            hidden(lambda f, c, n: isinstance(n, np.float32) and n < 0),
            {},
            "a negative noise_variance",
        ),
    ],
)
def test_what_a_bound_breaks_is_said(bound, options, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_bound(bound, **options)


def test_bounds_without_gradients_can_be_excused():
    testing.check_bound(bent(lambda v, f, c: jnp.sqrt(v)), differentiable=False)


# The package --------------------------------------------------------------------------


def test_parts_are_imported_on_first_use():
    code = (
        "import sys, miue_jax.information as i\n"
        "print([m for m in sys.modules if m.startswith('miue_jax.information.')])\n"
        "i.bounds.trace_bound\n"
        "print('miue_jax.information.estimators' in sys.modules)\n"
        "print(*dir(i))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    before, after, names = run.stdout.splitlines()
    assert (before, after) == ("[]", "False")
    assert names == "Estimate bounds estimators inference tasks testing"


def test_unknown_parts_are_refused():
    with pytest.raises(AttributeError, match="has no attribute 'bound'"):
        miue_jax.information.bound  # noqa: B018
