"""CUDA against loops over pixels, and its filters."""

import jax
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.data import artifact, dataset
from miue_jax.generators import DataSpec
from miue_jax.generators.convolution_filter import (
    PRESETS,
    ConvolutionFilterConfig,
    convolution_filter,
    draw_filters,
)
from miue_jax.train import loop, parallel, sampling

SIZE, CLASSES = 19, 3


def _data(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (SIZE, 6, 7, channels)).astype(np.uint8)
    images[4] = 0
    return images, rng.integers(0, CLASSES, SIZE).astype(np.int32)


def _run(config, images, labels, *, num_devices=1, num_shards=1, seed=0):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    spec = DataSpec(
        num_examples=SIZE,
        num_classes=CLASSES,
        image_shape=images.shape[1:],
        num_shards=num_shards,
        axis_name=parallel.AXIS,
    )
    generator = convolution_filter(config, spec)
    dealt = sampling.deal(images, labels, num_shards)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state = loop.start(generator.init, mesh)(key, data)
    state, _ = loop.advance(generator.step, mesh)(key, state, data, generator.num_steps)
    delta = np.asarray(parallel.to_host(generator.perturbation(state)))
    return generators.per_example(
        generator, delta, labels, np.ones(SIZE, bool)
    ), generator


def _filtered(image, kernel):
    height, width, channels = image.shape
    reach = len(kernel) // 2
    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            for k in range(-reach, reach + 1):
                for m in range(-reach, reach + 1):
                    if 0 <= i + k < height and 0 <= j + m < width:
                        weight = kernel[reach + k, reach + m]
                        for c in range(channels):
                            result[i, j, c] += weight * image[i + k, j + m, c]
    largest = result.max()
    return result / largest if largest > 0 else result


@pytest.mark.parametrize(("channels", "filter_size"), [(3, 3), (1, 5)])
def test_images_are_those_of_the_loops(channels, filter_size):
    config = ConvolutionFilterConfig(filter_size=filter_size)
    images, labels = _data(channels)
    delta, _ = _run(config, images, labels)
    kernels = np.asarray(draw_filters(jax.random.key(0), CLASSES, config), float)
    for image, label, change in zip(images, labels, delta, strict=True):
        want = _filtered(image / 255, kernels[label])
        np.testing.assert_allclose(image / 255 + change, want, atol=2e-6)


def test_black_images_stay_black():
    images, labels = _data(3)
    delta, _ = _run(PRESETS["published"], images, labels)
    assert not images[4].any()
    assert not delta[4].any()


@pytest.mark.parametrize(("blur", "filter_size"), [(0.3, 3), (0.06, 9)])
def test_filters_have_one_1_among_small_uniform_weights(blur, filter_size):
    config = ConvolutionFilterConfig(blur=blur, filter_size=filter_size)
    kernels = np.asarray(draw_filters(jax.random.key(1), 400, config))
    assert kernels.shape == (400, filter_size, filter_size)
    ones = kernels.reshape(400, -1) == 1
    np.testing.assert_array_equal(ones.sum(1), 1)
    places = np.bincount(ones.argmax(1), minlength=filter_size**2)
    expected = 400 / filter_size**2
    spread = np.square(places - expected).sum() / expected
    assert spread < 2 * filter_size**2, "the 1 is not anywhere equally often"
    rest = kernels.reshape(400, -1)[~ones]
    assert rest.min() >= 0
    assert 0.97 * blur < rest.max() < blur
    assert rest.mean() == pytest.approx(blur / 2, rel=0.05)


def test_eight_devices_give_the_numbers_of_one():
    images, labels = _data(3)
    one, _ = _run(PRESETS["published"], images, labels, num_shards=8)
    eight, _ = _run(PRESETS["published"], images, labels, num_shards=8, num_devices=8)
    np.testing.assert_allclose(eight, one, atol=1e-6)
    other, _ = _run(PRESETS["published"], images, labels, seed=1)
    assert np.abs(other - one).max() > 0.1


def test_the_artifact_has_no_budget():
    images, labels = _data(3)
    delta, generator = _run(PRESETS["published"], images, labels)
    clean = dataset.Dataset(images, labels, ("a", "b", "c"))
    result = artifact.build(clean, delta, budget=generator.budget, metadata={})
    assert result.metadata["norm"] == "unbounded"
    assert result.metadata["radius"] is None
    # Dividing by the largest value brings every image but the black one to white.
    np.testing.assert_array_equal(
        result.dataset.images.max((1, 2, 3)), np.where(np.arange(SIZE) == 4, 0, 255)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": -0.1}, "blur is -0.1"),
        ({"blur": float("nan")}, "blur is nan"),
        ({"filter_size": 4}, "filter_size is 4; allowed: odd numbers"),
        ({"filter_size": 0}, "filter_size is 0"),
        ({"filter_size": 3.0}, r"filter_size is 3\.0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvolutionFilterConfig(**settings)
