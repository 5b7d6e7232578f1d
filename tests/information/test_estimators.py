"""All estimators by name: one contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.information import estimators
from miue_jax.information._core import check_labels, check_samples

SIZE, CLASSES = 120, 3
TRAINED = ("infonce", "nwj", "dv", "smile", "club")
SMALL = estimators.FitConfig(
    hidden=8, depth=1, batch_size=16, max_steps=8, steps_per_round=4, patience=2
)
every_estimator = pytest.mark.parametrize("name", estimators.NAMES)


def samples():
    rng = np.random.default_rng(0)
    labels = np.arange(SIZE) % CLASSES
    x = rng.standard_normal((SIZE, 2)) + 3 * labels[:, None]
    y = x + rng.standard_normal((SIZE, 2))
    return x, y, labels


def call(name, x, y, labels, **options):
    if name in TRAINED:
        options = {"config": SMALL, **options}
    if name == "sliced":
        options = {"num_slices": 4, **options}
    if name == "class_conditional_gaussian":
        options = {"components": None, **options}
    return estimators.estimate(
        name,
        x,
        y,
        key=jax.random.key(0),
        labels=labels,
        num_classes=CLASSES,
        **options,
    )


@every_estimator
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_call_serves_all(name):
    found = call(name, *samples())
    assert isinstance(found, estimators.Estimate)
    assert found.value.shape == found.standard_error.shape == ()
    assert np.isfinite(found.value)
    assert found.kind in ("estimate", "lower", "upper")
    assert all(not np.any(np.isnan(v)) for v in found.diagnostics.values())


@every_estimator
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y, c: (x.at[3, 1].set(jnp.nan), y, c), "x holds nan at row 3"),
        (lambda x, y, c: (x[:1], y[:1], c[:1]), "1 sample|at least"),
    ],
    ids=["nan", "few"],
)
def test_bad_samples_are_refused(name, spoil, message):
    x, y, labels = samples()
    with pytest.raises(ValueError, match=message):
        call(name, *spoil(jnp.asarray(x), jnp.asarray(y), jnp.asarray(labels)))


@pytest.mark.parametrize("name", [n for n in estimators.NAMES if n != "ross"])
def test_lengths_must_agree(name):
    x, y, labels = samples()
    with pytest.raises(ValueError, match="120 samples and y 119"):
        call(name, x, y[:-1], labels)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("kgs", {}, "unknown estimator 'kgs'; did you mean 'ksg'"),
        (
            "ksg",
            {"neighbor": 3},
            "unknown option .* 'neighbor'; did you mean 'neighbors'",
        ),
        ("copula", {"copula": False}, "unknown option of estimator 'copula' 'copula'"),
        ("infonce", {}, "'infonce' needs key"),
        ("ksg_conditional", {}, "needs labels"),
        ("ross", {"labels": np.zeros(SIZE, int)}, "needs num_classes"),
    ],
)
def test_what_is_missing_or_unknown_is_named(name, given, message):
    x, y, _ = samples()
    with pytest.raises(ValueError, match=message):
        estimators.estimate(name, x, y, **given)


def test_known_arrays_are_checked_inside_jit_too():
    x, _, labels = samples()
    ours = jax.jit(lambda z: check_samples("x", x) + z)(0.0)
    np.testing.assert_allclose(ours, x, rtol=1e-6)
    x[1, 0] = np.inf
    with pytest.raises(ValueError, match="x holds inf at row 1, column 0"):
        jax.jit(lambda z: check_samples("x", x) + z)(0.0)
    with pytest.raises(ValueError, match="labels run from 0 to 2"):
        jax.jit(lambda z: check_labels(labels, SIZE, num_classes=2) + z)(0)


def test_traced_nan_stays_nan():
    # Ranks and counts would hide it.
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 60, 2)).astype(np.float32)
    labels, key = np.arange(60) % 3, jax.random.key(0)
    x[3, 1] = np.nan
    with_all = {"key": key, "labels": labels, "num_classes": 3}
    for name in ("ksg", "ksg_conditional", "ross", "gaussian", "copula", "renyi"):
        found = jax.jit(lambda x, n=name: estimators.estimate(n, x, noise, **with_all))
        assert np.isnan(found(x).value), name
    found = jax.jit(lambda x: estimators.sliced(key, x, noise, num_slices=3).value)
    assert np.isnan(found(x))
