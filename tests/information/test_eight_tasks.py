"""Every estimator of a pair against eight tasks of known truth, each with its bias.

The tasks are of one dimension, where sliced information is the information itself, and
given within two labels that say nothing: what an estimator within classes adds is then
known, too. Tolerances are of 2,000 samples (400 for Renyi's), in nats.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information import estimators, tasks

TASKS = (
    "1v1-normal-0.75",
    "normal_cdf-1v1-normal-0.75",
    "wiggly-1v1-normal-0.75",
    "half_cube-1v1-normal-0.75",
    "1v1-bimodal-0.75",
    "1v1-additive-0.75",
    "1v1-additive-0.1",
    "student-identity-1-1-1",
)
_FIT = estimators.FitConfig(hidden=64, max_steps=600, learning_rate=3e-3)
_CRITIC = {"embedding": 16, "config": _FIT}

# Options, and from where to where an estimate may lie off the truth, for each task.
_NEIGHBORS = [(-0.06, 0.06)] * 5 + [(-0.09, 0.05), (-0.13, 0.04), (-0.19, 0.0)]
_BOUND = [(-0.19, 0.09)] * 5 + [(-0.2, 0.02), (-0.34, -0.05), (-0.25, 0.06)]
ESTIMATORS = {
    "ksg": ({}, _NEIGHBORS),
    "ksg_conditional": ({}, _NEIGHBORS),
    "sliced": ({"num_slices": 4}, _NEIGHBORS),
    # A Gaussian sees what is linear; of Student tails it says anything.
    "gaussian": (
        {},
        [
            *[(-0.09, 0.06)] * 4,
            (-0.14, 0.0),
            (-0.21, -0.1),
            (-0.16, -0.04),
            (-0.4, 0.9),
        ],
    ),
    # The copula makes the first five the same Gaussian, and misses what is no copula.
    "copula": ({}, [(-0.05, 0.06)] * 5 + [(-0.21, -0.1), (-0.5, -0.35), (-0.24, -0.2)]),
    "infonce": (_CRITIC, _BOUND),
    "nwj": (_CRITIC, _BOUND),
    "dv": (_CRITIC, _BOUND),
    "smile": (_CRITIC, _BOUND),
    # An estimate from a learned normal law: too large where the law is none.
    "club": ({"config": _FIT}, [(-0.1, 3.0)] * 5 + [(-0.1, 0.4), (5, 60), (5, 90)]),
    # Another quantity, which only goes the same way.
    "renyi": ({}, [(-0.3, 0.1)] * 5 + [(-0.35, 0.05), (-1.4, -0.6), (-0.15, 0.4)]),
}


def _labels(size):
    return jax.random.bernoulli(jax.random.key(99), shape=(size,)).astype(jnp.int32)


@functools.cache
def _samples(name, size):
    task = tasks.create(name)
    return task, *task.sample(jax.random.key(0), size)[:2]


@pytest.mark.parametrize("position", range(len(TASKS)))
@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore")
def test_estimates_are_off_by_what_is_stated(name, position):
    options, tolerances = ESTIMATORS[name]
    size = 400 if name == "renyi" else 2000
    task, x, y = _samples(TASKS[position], size)
    estimate = estimators.estimate(
        name,
        x,
        y,
        key=jax.random.key(7),
        labels=_labels(size),
        num_classes=2,
        **options,
    )
    low, high = tolerances[position]
    error = float(estimate.value) - task.information
    assert low <= error <= high, f"{error:+.3f} nats"


@pytest.mark.parametrize("position", range(len(TASKS)))
def test_the_gaussian_of_classes_adds_what_the_label_tells(position):
    task, x, y = _samples(TASKS[position], 2000)
    labels = _labels(2000)
    estimate = estimators.class_conditional_gaussian(x, y, labels, num_classes=2)
    pooled = estimators.gaussian(x, y)
    difference = float(estimate.value - pooled.value) - math.log(2)
    # Two covariances in place of one differ where the tails decide.
    assert abs(difference) < (0.6 if "student" in task.name else 0.06)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])
def test_ross_finds_the_information_of_a_label(distance):
    """Two normal classes that far apart, against quadrature."""
    labels = _labels(2000)
    x = distance * labels + jax.random.normal(jax.random.key(1), (2000,))
    grid = np.linspace(-10, distance + 10, 20001)
    densities = [
        np.exp(-0.5 * (grid - mean) ** 2) / np.sqrt(2 * np.pi) for mean in (0, distance)
    ]
    mixture = (densities[0] + densities[1]) / 2

    def part(density):
        safe = np.where(density > 0, density, 1)
        return np.where(density > 0, density * np.log(safe / mixture), 0)

    truth = np.trapezoid(sum(map(part, densities)) / 2, grid)
    estimate = estimators.estimate("ross", x, labels=labels, num_classes=2)
    assert float(estimate.value) == pytest.approx(truth, abs=0.05)


def test_no_estimator_is_left_out():
    others = {"ross", "class_conditional_gaussian"}
    assert set(ESTIMATORS) | others == set(estimators.NAMES)
