"""D-VAE: its loss, its network, its training and its two stages."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from miue_jax.defenses import disentangling
from miue_jax.models.disentangling_vae import (
    Disentangled,
    DisentanglingVAE,
    Upsampling,
)
from miue_jax.train import sampling

d_vae = importlib.import_module("miue_jax.defenses.d_vae")


class _Table(nn.Module):
    """One image for all, one perturbation a class."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, key, images, labels, *, train):
        del key, train
        shape = images.shape[1:]
        zeros = nn.initializers.zeros
        image = nn.sigmoid(self.param("image", zeros, shape))
        table = self.param("table", zeros, (self.num_classes, *shape))
        flat = jnp.zeros((len(images), 1, 1, 1))
        return Disentangled(
            jnp.broadcast_to(image, images.shape), table[labels], flat, flat
        )


@pytest.fixture
def key():
    return jax.random.key(0)


def _draw(key, *shape):
    return np.asarray(jax.random.normal(key, shape))


@pytest.mark.parametrize("rate", [0.5, 100.0])
@pytest.mark.parametrize("restrained", [False, True])
@pytest.mark.parametrize("scale", [0.01, 0.5])
def test_loss_is_its_formula(key, rate, restrained, scale):
    keys = jax.random.split(key, 5)
    images = np.abs(_draw(keys[0], 2, 4, 4, 3)) / 4
    outputs = Disentangled(
        np.abs(_draw(keys[1], 2, 4, 4, 3)) / 4,
        scale * _draw(keys[2], 2, 4, 4, 3),
        _draw(keys[3], 2, 2, 2, 5),
        _draw(keys[4], 2, 2, 2, 5),
    )
    divergence = 0.0
    for mean, log_variance in zip(
        outputs.mean.reshape(-1, 5), outputs.log_variance.reshape(-1, 5), strict=True
    ):
        for mu, log in zip(mean, log_variance, strict=True):
            divergence += (mu**2 + np.exp(log) - log - 1) / 2 / 8
    assert 0.5 < divergence < 100, "the case tells neither side of the floor"
    both = np.clip(outputs.reconstruction + outputs.perturbation, 0, 1)
    expected = (
        np.mean((outputs.reconstruction - images) ** 2)
        + np.mean((both - images) ** 2)
        + 0.01 * max(divergence, rate)
    )
    if restrained:
        expected += max(np.mean(outputs.perturbation**2), 0.002)
    np.testing.assert_allclose(
        disentangling.latent_rate(outputs.mean, outputs.log_variance),
        divergence,
        rtol=1e-5,
    )
    loss = disentangling.disentangling_loss(
        outputs, images, rate=rate, restrained=restrained
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_below_the_rate_the_latent_is_free(key):
    mean = jax.random.normal(key, (2, 2, 2, 5))
    images = jnp.zeros((2, 4, 4, 3))

    def loss(mean, rate):
        outputs = Disentangled(images, images, mean, jnp.zeros_like(mean))
        return disentangling.disentangling_loss(
            outputs, images, rate=rate, restrained=False
        )

    assert not jax.grad(loss)(mean, 100.0).any()
    np.testing.assert_allclose(jax.grad(loss)(mean, 0.1), 0.01 * mean / 8, rtol=1e-5)


def test_upsampling_is_a_transposed_convolution(key):
    images = jax.random.normal(key, (2, 3, 5, 4))
    module = Upsampling(6)
    variables = module.init(key, images)
    params = {**variables["params"], "bias": jnp.arange(6.0)}
    kernel = params["conv"]["kernel"].reshape(2, 2, 4, 2, 2, 6)
    kernel = kernel.transpose(0, 3, 1, 4, 2, 5).reshape(4, 4, 4, 6)
    expected = lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        [(2, 2), (2, 2)],
        lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    result = module.apply({"params": params}, images)
    assert result.shape == (2, 6, 10, 6)
    np.testing.assert_allclose(result, expected + params["bias"], atol=1e-5)


def _two_classes():
    labels = np.arange(6) % 2
    pattern = np.where(np.indices((4, 4, 1)).sum(0) % 2, 40, -40)
    images = 128 + np.where(labels[:, None, None, None], pattern, -pattern)
    return images.astype(np.uint8), labels, pattern / 255


@pytest.mark.parametrize(
    ("epochs", "batch_size", "share"), [(10, 2, 1.0), (200, 128, 0.5)]
)
def test_training_splits_mean_and_classes(key, epochs, batch_size, share):
    # Once the mean square of p counts as much as that of r + p - x, half of the
    # classes' deviation is the optimum. 128 is more than there are images.
    images, labels, pattern = _two_classes()
    params = disentangling.train(
        key,
        sampling.deal(images, labels, 1),
        1.0,
        module=_Table(2, 1),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=0.02,
    )["params"]
    mean = jax.nn.sigmoid(params["image"])
    np.testing.assert_allclose(mean, np.full((4, 4, 1), 128 / 255), atol=0.03)
    found = [float(np.mean(p * pattern) / np.mean(pattern**2)) for p in params["table"]]
    np.testing.assert_allclose(found, [-share, share], atol=0.25)


class _Fixed:
    """Halves images; the perturbation of class y is 8 (y + 1) gray levels."""

    def __init__(self, num_classes, width):
        del num_classes, width

    def __eq__(self, other):
        return type(self) is type(other)

    def __hash__(self):
        return 0

    def apply(self, variables, key, images, labels, *, train):
        del variables, key
        assert not train
        levels = 8.0 * (labels + 1)[:, None, None, None]
        perturbation = jnp.broadcast_to(levels / 255, images.shape)
        return Disentangled(images / 2, perturbation, images, images)


@pytest.mark.parametrize("count", [3, 10])
def test_two_stages(monkeypatch, key, count):
    rates, seen, keys = [], [], []

    def train(key, data, rate, **_):
        keys.append(jax.random.key_data(key).tolist())
        rates.append(rate)
        seen.append(np.asarray(data.images[0]))
        return {}

    monkeypatch.setattr(d_vae, "DisentanglingVAE", _Fixed)
    monkeypatch.setattr(d_vae.disentangling, "train", train)
    images = np.arange(count * 16 * 3).reshape(count, 4, 4, 3).astype(np.uint8)
    labels = (np.arange(count) % 3).astype(np.int32)
    purify = d_vae.d_vae((4, 4, 3), 3, batch_size=4).purify
    result = purify(key, images, labels)

    levels = 8 * (labels + 1)[:, None, None, None]
    once = np.clip(images.astype(int) - levels, 0, 255)
    twice = np.clip(once - levels, 0, 255)
    assert rates == [1.0, 3.0]
    assert keys[0] != keys[1], "both stages start alike"
    np.testing.assert_array_equal(seen[0], images)
    np.testing.assert_array_equal(seen[1], once, "what the second stage learns from")
    assert (result.dtype, result.shape) == (np.uint8, images.shape)
    assert np.abs(result - twice / 2).max() <= 0.5 + 1e-4


def test_a_diverged_training_is_no_purification(monkeypatch, key):
    monkeypatch.setattr(d_vae, "DisentanglingVAE", _Fixed)
    monkeypatch.setattr(
        d_vae.disentangling, "train", lambda *_, **__: {"w": jnp.array([0, jnp.nan])}
    )
    purify = d_vae.d_vae((4, 4, 3), 3).purify
    with pytest.raises(FloatingPointError, match=r"stage 1 .* learning rate 0\.005"):
        purify(key, np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32))


_WIDTH, _CLASSES = 4, 4
_TRAINING = {"epochs": 200, "batch_size": 32, "learning_rate": 0.01}


def _protected():
    """Smooth images, clean and with one pattern of 8 gray levels a class."""
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 8)
    rows, columns = grid[None, :, None, None], grid[None, None, :, None]
    weights = rng.normal(size=(4, 96, 1, 1, 3))
    clean = 128 + 30 * weights[0] + 40 * weights[1] * (columns - 0.5)
    clean = clean + 40 * weights[2] * (rows - 0.5)
    clean += 30 * weights[3] * np.sin(3 * columns + 2 * rows)
    clean = np.clip(np.round(clean), 0, 255).astype(np.uint8)
    labels = (np.arange(96) % _CLASSES).astype(np.int32)
    patterns = 8 * rng.choice([-1, 1], size=(_CLASSES, 8, 8, 3))[labels]
    protected = np.clip(clean + patterns, 0, 255).astype(np.uint8)
    return clean, protected, labels, patterns


def _share(changes, patterns):
    """How much of the patterns is in the changes: 1 is all, 0 none."""
    return np.mean(changes * patterns) / np.mean(patterns**2)


def _error(images, clean):
    return np.sqrt(np.mean((images.astype(float) - clean) ** 2))


@pytest.mark.slow
def test_class_patterns_go_and_images_stay(key):
    clean, protected, labels, patterns = _protected()
    defense = d_vae.d_vae((8, 8, 3), _CLASSES, width=_WIDTH, **_TRAINING)
    result = defense.purify(key, protected, labels)
    assert (result.dtype, result.shape) == (np.uint8, protected.shape)
    before = _share(protected.astype(float) - clean, patterns)
    after = _share(result.astype(float) - clean, patterns)
    assert before > 0.95
    assert after < 0.2, f"{after:.2f} of the pattern is left"
    mean_image = np.broadcast_to(protected.mean(0), clean.shape)
    lost = _error(result, clean) / _error(mean_image, clean)
    assert lost < 0.93, f"error {lost:.2f} times that of the mean image"


@pytest.mark.slow
def test_network_separates_labels_from_images(key):
    _, protected, labels, patterns = _protected()
    module = DisentanglingVAE(_CLASSES, _WIDTH)
    train_key, noise = jax.random.split(key)
    variables = disentangling.train(
        train_key, sampling.deal(protected, labels, 1), 1.0, module=module, **_TRAINING
    )
    images = jnp.asarray(protected, jnp.float32) / 255
    apply = jax.jit(
        lambda key, labels: module.apply(variables, key, images, labels, train=False)
    )
    own = apply(noise, labels)
    others = apply(noise, (labels + 1) % _CLASSES)
    assert own.reconstruction.shape == own.perturbation.shape == images.shape
    assert own.mean.shape == own.log_variance.shape == (96, 4, 4, 4 * _WIDTH)
    for name in ("reconstruction", "mean", "log_variance"):
        np.testing.assert_array_equal(
            getattr(own, name), getattr(others, name), f"{name} depends on the label"
        )
    found = _share(np.asarray(own.perturbation) * 255, patterns)
    other = _share(np.asarray(others.perturbation) * 255, patterns)
    assert found > 0.15, f"{found:.2f} of the pattern found"
    assert other < found / 2, f"{other:.2f} of the pattern found by another label"
    rate = disentangling.latent_rate(own.mean, own.log_variance)
    assert abs(rate - 1) < 0.3, f"{rate:.2f} nats a pixel where one is free"
    again = apply(jax.random.fold_in(noise, 1), labels)
    assert np.ptp(np.asarray(again.reconstruction - own.reconstruction)) > 0
    assert np.ptp(np.asarray(again.perturbation - own.perturbation)) > 0


def test_the_key_decides(monkeypatch):
    monkeypatch.setattr(d_vae, "DisentanglingVAE", _Table)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
    labels = (np.arange(6) % 2).astype(np.int32)
    purify = d_vae.d_vae((4, 4, 1), 2, epochs=2, batch_size=2, learning_rate=0.3).purify
    first, second, other = (
        purify(jax.random.key(seed), images, labels) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((30, 32, 3), {}, "multiples of 4, got 30x32"),
        ((32, 30, 3), {}, "multiples of 4, got 32x30"),
        ((32, 32, 3), {"width": 0}, "d_vae width is 0"),
        ((32, 32, 3), {"epochs": 1.5}, "d_vae epochs is 1.5"),
        ((32, 32, 3), {"batch_size": 0}, "d_vae batch_size is 0"),
        ((32, 32, 3), {"learning_rate": 0.0}, r"d_vae learning_rate is 0\.0"),
        ((32, 32, 3), {"first_rate": -1.0}, r"d_vae first_rate is -1\.0"),
        ((32, 32, 3), {"second_rate": float("nan")}, "d_vae second_rate is nan"),
    ],
)
def test_what_does_not_fit(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        d_vae.d_vae(shape, 10, **settings)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], "float32"),
        (np.zeros((2, 4, 8, 3), np.uint8), [0, 1], r"\(2, 4, 8, 3\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 2], r"in \[0, 2\), got 0 to 2"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0], "one per image"),
    ],
)
def test_bad_data(key, images, labels, message):
    purify = d_vae.d_vae((4, 4, 3), 2).purify
    with pytest.raises(ValueError, match=message):
        purify(key, images, np.asarray(labels))
