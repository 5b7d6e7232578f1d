"""Orthogonal projection: what it removes, and what it leaves."""

import importlib

import jax
import numpy as np
import pytest

from miue_jax import defenses

# The package shows the function under the name of its module.
_module = importlib.import_module("miue_jax.defenses.orthogonal_projection")

SHAPE = (8, 8, 3)
CLASSES = 3


def _data(size=90, amplitude=16):
    """Gray images of noise with a pattern of +-amplitude for each class."""
    rng = np.random.default_rng(0)
    labels = (np.arange(size) % CLASSES).astype(np.int32)
    patterns = rng.choice([-amplitude, amplitude], (CLASSES, *SHAPE))
    images = 128 + rng.normal(0, 20, (size, *SHAPE)) + patterns[labels]
    return np.clip(images, 0, 255).astype(np.uint8), labels, patterns


def _purify(images, labels, *, seed=0, **settings):
    spec = {"name": "orthogonal_projection", **settings}
    defense = defenses.create(spec, image_shape=SHAPE, num_classes=CLASSES)
    return defense.purify(jax.random.key(seed), images, labels)


def _trained(seed=0, **settings):
    """The weights that a purification comes to, by NumPy."""
    images, labels, _ = _data()
    options = {"epochs": 20, "batch_size": 32, "learning_rate": 0.1, **settings}
    init_key, order_key = jax.random.split(jax.random.key(seed))
    bound = images[0].size ** -0.5
    weights = np.asarray(
        jax.random.uniform(
            init_key, (CLASSES, images[0].size), minval=-bound, maxval=bound
        ),
        np.float64,
    )
    assert np.abs(weights).max() <= bound
    order = np.asarray(jax.random.permutation(order_key, len(images)))
    pixels = images.reshape(len(images), -1) / 255
    for epoch in range(options["epochs"]):
        rate = options["learning_rate"]
        rate *= 0.1 if epoch >= options["epochs"] / 2 else 1
        rate *= 0.1 if epoch >= options["epochs"] * 0.75 else 1
        for start in range(0, len(images), options["batch_size"]):
            rows = order[start : start + options["batch_size"]]
            scores = np.exp(pixels[rows] @ weights.T)
            wrong = scores / scores.sum(1, keepdims=True)
            wrong[np.arange(len(rows)), labels[rows]] -= 1
            weights -= rate * wrong.T @ pixels[rows] / len(rows)
    return weights


def test_the_images_are_projected_off_the_weights_of_the_published_training():
    images, labels, _ = _data()
    result = _purify(images, labels, batch_size=32)
    basis = np.linalg.qr(_trained().T)[0]
    flat = images.reshape(len(images), -1).astype(float)
    expected = np.clip(flat - flat @ basis @ basis.T, 0, 255)
    # Rounding, and what float32 adds in 60 steps.
    difference = np.abs(result.reshape(len(images), -1) - expected).max()
    assert difference < 0.52, f"{difference} gray levels from the projection"


def test_class_wise_patterns_are_removed_and_little_else():
    images, labels, patterns = _data()
    centered = (patterns - patterns.mean(0)).reshape(CLASSES, -1)
    norms = np.linalg.norm(centered, axis=1)

    def along_patterns(images):
        flat = images.reshape(len(images), -1).astype(float)
        means = np.stack([flat[labels == k].mean(0) for k in range(CLASSES)])
        return np.sum((means - means.mean(0)) * centered, 1) / norms

    result = _purify(images, labels, epochs=200)
    before, after = along_patterns(images), along_patterns(result)
    assert np.all(np.abs(after) < 0.1 * before), (before, after)
    # Besides the mean image, three directions out of 192 of the noise are lost.
    spread = lambda x: (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(0)).std()  # noqa: E731
    assert spread(result) > 0.5 * spread(images)


def test_the_key_seeds_everything():
    images, labels, _ = _data()
    before = images.copy()
    first, again, other = (_purify(images, labels, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(images, before, err_msg="the input was changed")
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_blocks_change_nothing(monkeypatch):
    images, labels, _ = _data(size=20)
    whole = _purify(images, labels)
    monkeypatch.setattr(_module, "_AT_ONCE", 7 * images[0].size)
    np.testing.assert_array_equal(_purify(images, labels), whole)


def test_too_many_classes_for_the_images():
    with pytest.raises(ValueError, match=r"each of 4 classes; images .* have only 4"):
        defenses.create("orthogonal_projection", image_shape=(2, 2, 1), num_classes=4)


@pytest.mark.parametrize(
    "setting", [{"epochs": 0}, {"batch_size": 0.5}, {"learning_rate": -1}]
)
def test_settings_out_of_range(setting):
    with pytest.raises(
        ValueError, match=rf"orthogonal_projection {next(iter(setting))}"
    ):
        _purify(*_data()[:2], **setting)
