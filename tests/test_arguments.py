"""Arguments that are no numbers, counts, keys or functions: one sentence each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import miue_jax as mj
from miue_jax import projected_gradient
from miue_jax.information import bounds, estimators, inference, tasks

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype(np.float32)
Y = X[:, :2] + RNG.standard_normal((60, 2)).astype(np.float32)
LABELS = np.arange(60) % 3
KEY = jax.random.key(0)
IMAGES = np.full((2, 4, 4, 3), 0.5, np.float32)
SCORES = RNG.standard_normal((6, 6)).astype(np.float32)
MEANS, PRIOR = np.array([[-1.0, 0.0], [1.0, 0.0]]), np.array([0.5, 0.5])
ROUND = np.stack([np.eye(2)] * 2)
SKEW = np.array([[[1.0, 0.9], [0.0, 1.0]]] * 2)
LOSS = bounds.CrossEntropy(0.5, 0.01, 0.52)
LIMITS = bounds.CosineConfidence(
    lower=jnp.array([0.9, 0.7]), upper=jnp.ones(2), prior=jnp.full(2, 0.5)
)


def bound(features=X, labels=LABELS, noise=0.1, classes=3):
    return bounds.within_class_logdet(features, labels, noise, classes)


def ksg(**changes):
    return estimators.ksg(**{"x": X, "y": Y, **changes})


def permutations(**changes):
    arguments = {"estimator": lambda x, y: jnp.mean(x), "x": X, "y": Y, **changes}
    return inference.permutation_test(KEY, **arguments)


def attack(loss_fn=jnp.sum, images=IMAGES, **changes):
    radius = {} if "budget" in changes else {"radius": 0.1}
    return mj.pgd(loss_fn, images, num_steps=2, **radius, **changes)


def bracket(**changes):
    arguments = {"entropy": 1.0, "clean": LOSS, "poison": LOSS, "within_class": 0.1}
    return bounds.bracket(**{**arguments, **changes})


def certified(**changes):
    return bounds.certified_bounds(LIMITS._replace(**changes), 0.1, 8)


def path(**changes):
    return tasks.poisoning_path(KEY, **{"scale": 1.0, "dim": 4, "rank": 2, **changes})


CALLS = {
    # What is no number at all, and what is not real.
    "features are text": (lambda: bound("a"), "features is 'a'; it must hold real"),
    "features are objects": (lambda: bound(X.astype(object)), "type object"),
    "features are ragged": (lambda: bound([[1.0], [1.0, 2.0]]), "must hold real"),
    "features are keys": (
        lambda: bound(jax.random.split(KEY, 60)),
        "must hold numbers",
    ),
    "labels are text": (lambda: bound(labels="a"), "labels is 'a'"),
    "labels are floats": (lambda: bound(labels=LABELS * 1.0), "must be .* integers"),
    "noise is none": (lambda: bound(noise=None), "noise_variance is None"),
    "noise is text": (lambda: bound(noise="a"), "noise_variance is 'a'"),
    "noise is complex": (lambda: bound(noise=1j), "noise_variance is complex"),
    "noise is a flag": (lambda: bound(noise=True), "noise_variance is True"),
    "classes are a float": (lambda: bound(classes=1.5), "num_classes is 1.5"),
    "classes are none": (lambda: bound(classes=None), "num_classes is None"),
    # Bounds.
    "a basis of NaN": (
        lambda: bounds.hadamard_bound(X, LABELS, np.full((4, 2), np.nan), 0.1, 3),
        "not orthonormal",
    ),
    "a rank of 1.5": (lambda: bounds.principal_basis(X, LABELS, 1.5, 3), "rank is 1.5"),
    "complex information": (lambda: bounds.fano_accuracy(1j, 10), "is complex"),
    "infinitely many classes": (
        lambda: bounds.fano_information(0.5, np.inf),
        "num_classes is inf",
    ),
    "a covariance that is not symmetric": (
        lambda: bounds.label_information_bounds(MEANS, SKEW, PRIOR),
        "covariance of class 0 is not symmetric",
    ),
    "another": (
        lambda: bounds.rate_reduction(MEANS, SKEW, PRIOR),
        "covariance of class 0 is not symmetric",
    ),
    "means of infinity": (
        lambda: bounds.rate_reduction(MEANS + np.inf, ROUND, PRIOR),
        "must be finite",
    ),
    "no cross-entropy": (lambda: bracket(clean=3), "clean is 3; it must be a Cross"),
    "a limit below its mean": (
        lambda: bracket(poison=bounds.CrossEntropy(0.5, 0.1, 0.4)),
        "poison has standard error",
    ),
    "a limit of NaN": (
        lambda: bracket(clean=bounds.CrossEntropy(0.5, 0.1, np.nan)),
        "clean has standard error",
    ),
    "complex entropy": (lambda: bracket(entropy=1j), "entropy is complex"),
    "limits of NaN": (
        lambda: bounds.certified_bounds(
            LIMITS._replace(lower=jnp.full(2, jnp.nan)), 1, 8
        ),
        "cosines are from -1 to 1",
    ),
    "cosines of 5": (
        lambda: certified(lower=jnp.full(2, 5.0)),
        "cosines are from -1 to 1",
    ),
    "shares that do not sum to 1": (
        lambda: certified(prior=jnp.ones(2)),
        "with sum 1",
    ),
    "a negative count": (
        lambda: bounds.empirical_bernstein_radius(0.2, -3, span=1.0, confidence=0.9),
        "count is",
    ),
    # Estimators and what they are made of.
    "a seed for a key": (lambda: ksg(jitter_key=0), "jitter_key is 0; it must be one"),
    "a flag of text": (lambda: ksg(standardize="no"), "standardize is 'no'"),
    "a mesh of text": (lambda: ksg(mesh="a"), "mesh is 'a'"),
    "neighbors as many as samples": (lambda: ksg(neighbors=60), "at least 61"),
    "negative weights": (
        lambda: estimators.infonce(SCORES, weights=-np.ones(6)),
        "weights are .* > 0",
    ),
    "weights that sum to 0": (
        lambda: estimators.nwj(SCORES, weights=np.zeros(6)),
        "weights are .* > 0",
    ),
    "scores of NaN": (
        lambda: estimators.donsker_varadhan(SCORES * np.nan),
        "scores hold NaN",
    ),
    "complex scores": (lambda: estimators.smile(SCORES * 1j), "scores is complex"),
    "a clip of text": (lambda: estimators.smile(SCORES, clip="a"), "clip is 'a'"),
    "half a layer": (lambda: estimators.FitConfig(hidden=1.5), "hidden is 1.5"),
    "depth NaN": (lambda: estimators.FitConfig(depth=np.nan), "depth is nan"),
    "no configuration": (
        lambda: estimators.club(KEY, X, Y, config=None),
        "config is None; it must be a FitConfig",
    ),
    "no estimator": (lambda: estimators.estimate(["ksg"], X, Y), "unknown estimator"),
    "samples below the type": (
        lambda: estimators.club(KEY, X.astype(np.float64) * 1e-50, Y),
        "below the range of float32",
    ),
    # Inference.
    "an estimator of none": (
        lambda: permutations(estimator=None),
        "must be a function",
    ),
    "no batch": (lambda: permutations(batch_size=0), "batch_size is 0"),
    # Tasks.
    "a covariance of NaN": (
        lambda: tasks.gaussian("a", np.eye(2) * np.nan, dim_x=1),
        "NaN or infinity",
    ),
    "a complex correlation": (lambda: tasks.bivariate(1j), "is complex"),
    "points of NaN": (
        lambda: tasks.noisy_points("a", [[np.nan], [1.0]], noise_variance=1.0),
        "must be finite",
    ),
    "classes of points": (
        lambda: tasks.noisy_points(
            "a", [[0.0], [1.0]], noise_variance=1.0, labels=[0, -1]
        ),
        "labels run from -1",
    ),
    "negative noise": (
        lambda: tasks.noisy_information(MEANS, PRIOR, -1.0, MEANS),
        "noise_variance is -1.0",
    ),
    "a negative variance": (
        lambda: path(signal_variance=-1.0),
        "signal_variance is -1.0",
    ),
    "a variance of NaN": (lambda: path(clean_variance=np.nan), "clean_variance is nan"),
    "no draws": (
        lambda: tasks.path_information(KEY, path(), size=0),
        "size is 0",
    ),
    "no shape": (lambda: tasks.random_pmf(KEY, 3), "shape is 3"),
    # Losses and projected gradient.
    "features of text": (lambda: mj.similarity_loss("a", LABELS), "features is 'a'"),
    "temperature of none": (
        lambda: mj.similarity_loss(X, LABELS, temperature=None),
        "temperature is None",
    ),
    "a weight of text": (
        lambda: mj.mi_ue_loss(X, LABELS, distance_weight="a"),
        "distance_weight is 'a'",
    ),
    "per dimension, no": (
        lambda: mj.distance_loss(X, LABELS, per_dimension="no"),
        "per_dimension is 'no'",
    ),
    "a budget of text": (
        lambda: attack(budget="linf 8"),
        "budget is 'linf 8'; it must",
    ),
    "a budget of a list": (lambda: attack(budget=[8]), r"budget is \[8\]; it must"),
    "a budget of a number": (lambda: attack(budget=8), "budget is 8; it must"),
    "a step of text": (lambda: attack(step_size="a"), "step_size is 'a'"),
    "steps of two sizes": (lambda: attack(step_size=[1.0, 2.0]), "step_size has shape"),
    "steps of a batch": (lambda: attack(step_size=np.ones((3, 1, 1, 1, 1))), "has sha"),
    "a radius of text": (
        lambda: projected_gradient.project(IMAGES, radius="a"),
        "radius is 'a'",
    ),
    "images of text": (lambda: attack(images="a"), "images is 'a'"),
    "no loss": (lambda: attack(None), "loss_fn is None"),
    "a loss of images": (lambda: attack(lambda z: z), "loss_fn returns float32 of sha"),
    "an undecided direction": (lambda: attack(ascend="yes"), "ascend is 'yes'"),
    "another batch": (
        lambda: projected_gradient.clip_to_images(IMAGES, IMAGES[:1]),
        "must have one shape",
    ),
}


@pytest.mark.parametrize("what", CALLS)
def test_bad_arguments_are_refused_in_words(what):
    call, message = CALLS[what]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value).partition(" with prior")[0]


def test_steps_may_be_lists_and_numbers_of_numpy():
    images = np.full((2, 1, 1, 3), 0.5, np.float32)
    delta = mj.pgd(
        jnp.sum, images, radius=np.float32(0.1), step_size=[0.02, 0.04, 0], num_steps=1
    )
    np.testing.assert_allclose(delta[0, 0, 0], [-0.02, -0.04, 0], rtol=1e-6)
