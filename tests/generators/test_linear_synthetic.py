"""LSP: its patches, its norm, and the structure of its classes."""

import functools

import jax
import numpy as np
import pytest
from sklearn.datasets import make_classification

from miue_jax import generators
from miue_jax.budget import Budget
from miue_jax.generators import DataSpec
from miue_jax.generators.linear_synthetic import (
    PRESETS,
    LinearSyntheticConfig,
    linear_synthetic,
)
from miue_jax.train import loop, parallel, sampling

SIZE, CLASSES = 1500, 3
CONFIG = LinearSyntheticConfig(radius=0.6, patch_size=2)


@functools.cache
def _compile(config, classes, shape, num_shards, num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    spec = DataSpec(
        num_examples=SIZE,
        num_classes=classes,
        image_shape=shape,
        num_shards=num_shards,
        axis_name=parallel.AXIS,
    )
    generator = linear_synthetic(config, spec)
    start = loop.start(generator.init, mesh)
    return mesh, generator, start, loop.advance(generator.step, mesh)


def _run(config, images, labels, classes, *, num_devices=1, shards=1, seed=0):
    mesh, generator, start, advance = _compile(
        config, classes, images.shape[1:], shards, num_devices
    )
    dealt = sampling.deal(images, labels, shards)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state, _ = advance(key, start(key, data), data, generator.num_steps)
    delta = np.asarray(parallel.to_host(generator.perturbation(state)))
    everything = np.ones(len(images), bool)
    return generators.per_example(generator, delta, labels, everything), generator


def _gray(size, shape):
    return np.full((size, *shape), 128, np.uint8)


@pytest.fixture(scope="module")
def perturbed():
    """Perturbations of gray images, and the unit vectors of their 48 features."""
    labels = (np.arange(SIZE) % CLASSES).astype(np.int32)
    delta, _ = _run(CONFIG, _gray(SIZE, (8, 8, 3)), labels, CLASSES)
    features = delta[:, ::2, ::2].reshape(SIZE, -1)
    return delta, features / np.linalg.norm(features, axis=1, keepdims=True), labels


def _cosines(features, labels):
    """Mean cosine of two samples, of one class and of two."""
    cosines = features @ features.T
    same = labels[:, None] == labels
    own = same & ~np.eye(len(labels), dtype=bool)
    return cosines[own].mean(), cosines[~same].mean()


def test_patches_have_one_color_each_and_images_the_norm(perturbed):
    delta, _, _ = perturbed
    blocks = delta.reshape(SIZE, 4, 2, 4, 2, 3)
    assert np.ptp(blocks, axis=(2, 4)).max() < 1e-6
    corners = blocks[:, :, 0, :, 0]
    assert np.abs(np.diff(corners, axis=1)).min(0).max() > 0
    assert np.abs(np.diff(corners, axis=1)).mean() > 1e-2
    assert np.abs(np.diff(corners, axis=3)).mean() > 1e-2, "all channels are alike"
    norms = np.linalg.norm(delta.reshape(SIZE, -1), axis=1)
    np.testing.assert_allclose(norms, CONFIG.radius, rtol=1e-4)


def test_classes_lie_around_distinct_vertices_as_far_as_scikit_learn_puts_them(
    perturbed,
):
    _, features, labels = perturbed
    samples, classes = make_classification(
        SIZE,
        n_features=48,
        n_informative=48,
        n_redundant=0,
        n_repeated=0,
        n_classes=CLASSES,
        n_clusters_per_class=1,
        class_sep=CONFIG.class_separation,
        flip_y=0,
        random_state=0,
    )
    samples /= np.linalg.norm(samples, axis=1, keepdims=True)
    within, between = _cosines(features, labels)
    expected, apart = _cosines(samples, classes)
    assert within == pytest.approx(expected, abs=0.03)
    assert within > 0.8
    assert max(abs(between), abs(apart)) < 0.3
    centers = np.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    # A vertex has all its coordinates at one distance from 0.
    distances = np.abs(centers)
    assert distances.std() < 0.15 * distances.mean()
    assert len({tuple(row) for row in np.sign(centers)}) == CLASSES


def test_every_class_has_a_covariance_of_its_own(perturbed):
    _, features, labels = perturbed
    off = ~np.eye(48, dtype=bool)
    matrices = []
    for label in range(CLASSES):
        covariance = np.cov(features[labels == label].T)
        # Of independent features 500 samples give some 4, of a random matrix far more.
        values = np.linalg.eigvalsh(covariance)
        assert values[-1] > 50 * values[1]
        matrices.append(covariance[off])
    assert np.abs(np.corrcoef(matrices))[~np.eye(CLASSES, dtype=bool)].max() < 0.2


def test_a_linear_classifier_tells_the_classes_apart(perturbed):
    delta, _, labels = perturbed
    values, half = delta.reshape(SIZE, -1), SIZE // 2
    known = np.eye(CLASSES)[labels[:half]]
    weights = np.linalg.lstsq(values[:half], known, rcond=None)[0]
    accuracy = ((values[half:] @ weights).argmax(1) == labels[half:]).mean()
    assert accuracy > 0.99


def test_as_many_classes_as_vertices_all_differ():
    # Two patches of one channel have four vertices.
    labels = (np.arange(16) % 4).astype(np.int32)
    config = LinearSyntheticConfig(radius=0.5, patch_size=4, class_separation=1e3)
    delta, _ = _run(config, _gray(16, (4, 8, 1)), labels, 4)
    signs = np.sign(delta[:, 0, ::4, 0])
    assert len({tuple(row) for row in signs[:4]}) == 4
    np.testing.assert_array_equal(signs, np.tile(signs[:4], (4, 1)))


def test_images_at_the_ends_of_the_range_stay_images_within_the_radius():
    rng = np.random.default_rng(0)
    images = rng.choice([0, 255], (20, 4, 4, 3)).astype(np.uint8)
    labels = (np.arange(20) % CLASSES).astype(np.int32)
    delta, generator = _run(CONFIG, images, labels, CLASSES, shards=8)
    shown = images / 255 + delta
    assert -1e-6 <= shown.min() <= shown.max() <= 1 + 1e-6
    norms = np.linalg.norm(delta.reshape(20, -1), axis=1)
    assert generator.budget == Budget("l2", CONFIG.radius)
    assert norms.max() < CONFIG.radius
    assert norms.min() > 0


def test_eight_devices_give_the_numbers_of_one():
    labels = (np.arange(20) % CLASSES).astype(np.int32)
    images = _gray(20, (4, 4, 3))
    one, _ = _run(CONFIG, images, labels, CLASSES, shards=8)
    eight, _ = _run(CONFIG, images, labels, CLASSES, shards=8, num_devices=8)
    np.testing.assert_allclose(eight, one, atol=1e-6)
    close = np.abs(one[:, None] - one).max((2, 3, 4)) < 1e-4
    np.testing.assert_array_equal(close, np.eye(20, dtype=bool))
    other, _ = _run(CONFIG, images, labels, CLASSES, shards=8, seed=1)
    assert np.abs(other - one).max() > 1e-2


def test_the_published_norm_is_six_gray_levels():
    config = PRESETS["published"]
    assert config.radius == pytest.approx(1.304, abs=1e-3)
    assert (config.patch_size, config.class_separation) == (8, 10)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((32, 30, 3), 10, "patch_size is 8 pixels, the images have 32x30"),
        ((12, 16, 1), 2, "patch_size is 8 pixels, the images have 12x16"),
        ((8, 8, 3), 9, "9 classes are too many for the 3 features .* at most 8"),
    ],
)
def test_images_that_do_not_fit_the_patches_are_refused(shape, classes, message):
    spec = DataSpec(num_examples=2, num_classes=classes, image_shape=shape)
    with pytest.raises(ValueError, match=message):
        linear_synthetic(PRESETS["published"], spec)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "1"])
@pytest.mark.parametrize("field", ["radius", "patch_size", "class_separation"])
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}; .*llowed: "):
        LinearSyntheticConfig(**{field: value})
