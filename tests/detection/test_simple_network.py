"""Simple networks on protected and on clean data."""

import jax
import numpy as np
import pytest

from miue_jax.detection import MODELS, SimpleNetworkConfig, simple_network

CLASSES = 3
SMALL = {"epochs": 20, "batch_size": 16, "learning_rate": 0.05}


def _data(size=150, amplitude=0):
    """Noise that tells nothing of the labels, with a pattern for each class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, size).astype(np.int32)
    patterns = rng.choice([-amplitude, amplitude], (CLASSES, 8, 8, 1))
    images = 128 + rng.normal(0, 20, (size, 8, 8, 1)) + patterns[labels]
    return np.clip(images, 0, 255).astype(np.uint8), labels


def _detect(images, labels, *, seed=0, **settings):
    config = SimpleNetworkConfig(**{**SMALL, **settings})
    return simple_network(jax.random.key(seed), images, labels, CLASSES, config)


@pytest.mark.parametrize("model", MODELS)
def test_patterns_are_told_from_noise(model):
    width = None if model == "linear" else 32
    protected = _detect(*_data(amplitude=16), model=model, width=width)
    clean = _detect(*_data(), model=model, width=width)
    assert protected.validation_accuracy > 0.9
    assert clean.validation_accuracy < 0.6
    # The parts share no image: what is learned by heart does not count.
    assert clean.train_accuracy > clean.validation_accuracy + 0.1


def test_the_share_that_validates():
    images, labels = _data(size=50)
    accuracy = _detect(images, labels, validation=0.1, epochs=1).validation_accuracy
    assert 5 * accuracy == pytest.approx(round(5 * accuracy), abs=1e-4)
    accuracy = _detect(images, labels, validation=0.1, epochs=1).train_accuracy
    assert 45 * accuracy == pytest.approx(round(45 * accuracy), abs=1e-4)


def test_the_key_seeds_everything():
    images, labels = _data(amplitude=4)
    settings = {"model": "linear", "epochs": 3}
    first, again, other = (
        _detect(images, labels, seed=s, **settings) for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_the_learning_rate_falls_at_three_quarters_and_nine_tenths(monkeypatch):
    rates = []

    def watched(schedule, **settings):
        rates.extend(float(schedule(step)) for step in range(100))
        return sgd(schedule, **settings)

    module = __import__("sys").modules["miue_jax.detection.simple_network"]
    sgd = module.sgd
    monkeypatch.setattr(module, "sgd", watched)
    # 80 images to train on: five steps an epoch.
    images, labels = _data(size=100)
    _detect(images, labels, model="linear", epochs=20, learning_rate=0.01)
    np.testing.assert_allclose(rates[:75], 0.01)
    np.testing.assert_allclose(rates[75:90], 0.001, rtol=1e-5)
    np.testing.assert_allclose(rates[90:], 0.0001, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet18"}, "simple_network model is 'resnet18'; allowed: linear"),
        ({"width": 0}, "simple_network width is 0"),
        ({"epochs": 0}, "simple_network epochs is 0"),
        ({"batch_size": 0}, "simple_network batch_size is 0"),
        ({"learning_rate": 0}, "simple_network learning_rate is 0"),
        ({"momentum": 1}, "simple_network momentum is 1"),
        ({"weight_decay": -1}, "simple_network weight_decay is -1"),
        ({"validation": 0}, "simple_network validation is 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        SimpleNetworkConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 1}, "leaves 0 to train on"),
        ({"validation": 0.001}, "and 0 to validate"),
        ({"batch_size": 128}, "a batch of 128 images .* has 120 images"),
        ({"model": "linear", "width": 8}, "'linear' has no width"),
    ],
)
def test_data_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        _detect(*_data(), **settings)
