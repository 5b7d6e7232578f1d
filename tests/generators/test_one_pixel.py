"""OPS against an exhaustive search in double precision."""

import itertools

import jax
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.data import artifact, dataset
from miue_jax.generators import DataSpec
from miue_jax.generators.one_pixel import PRESETS, OnePixelConfig, one_pixel
from miue_jax.train import loop, parallel, sampling


def _data(size, classes, shape, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, size).astype(np.int32)
    centers = rng.integers(20, 236, (classes, *shape))
    widths = rng.integers(5, 60, (classes, *shape))
    noise = rng.normal(size=(size, *shape)) * widths[labels]
    return np.clip(centers[labels] + noise, 0, 255).astype(np.uint8), labels


def _run(config, images, labels, classes, *, num_devices=1, shards=1, selected=None):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    spec = DataSpec(
        num_examples=len(images),
        # Of a single class the other one has no images.
        num_classes=max(classes, 2),
        image_shape=images.shape[1:],
        num_shards=shards,
        axis_name=parallel.AXIS,
    )
    generator = one_pixel(config, spec)
    dealt = sampling.deal(images, labels, shards, selected=selected)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(generator.init, mesh)(key, data)
    state, _ = loop.advance(generator.step, mesh)(key, state, data, generator.num_steps)
    delta = np.asarray(parallel.to_host(generator.perturbation(state)))
    everything = np.ones(len(images), bool)
    return generators.per_example(generator, delta, labels, everything), generator


def _search(images, labels, classes, config):
    """Positions and colors of every class, by trying all of them."""
    height, width, channels = images.shape[1:]
    corners = list(itertools.product((0.0, 1.0), repeat=channels))
    used, chosen = set(), []
    for label in range(classes):
        mine = images[labels == label] / 255
        found = []
        for place in itertools.product(range(height), range(width)):
            options = []
            for color in corners:
                change = np.abs(mine[:, place[0], place[1]] - color)
                spread = change.var() if config.spread == "variance" else change.std()
                if (place, color) not in used:
                    options.append((change.mean() / spread, place, color))
            found.append(max(options))
        best = sorted(found, reverse=True)[: config.pixels]
        used |= {(place, color) for _, place, color in best}
        chosen.append({place: color for _, place, color in best})
    return chosen


def _expected(images, labels, chosen):
    result = images / 255
    for image, label in zip(result, labels, strict=True):
        for place, color in chosen[label].items():
            image[place] = color
    return result


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(("channels", "pixels"), [(3, 1), (3, 4), (1, 2)])
def test_the_exhaustive_search_finds_the_same(preset, channels, pixels):
    config = OnePixelConfig(pixels=pixels, spread=PRESETS[preset].spread)
    images, labels = _data(150, 4, (5, 6, channels))
    delta, _ = _run(config, images, labels, 4)
    chosen = _search(images, labels, 4, config)
    want = _expected(images, labels, chosen)
    np.testing.assert_allclose(images / 255 + delta, want, atol=1e-6)
    assert ((delta != 0).any(3).sum((1, 2)) <= pixels).all()


def test_the_variance_prefers_a_steady_pixel_to_a_large_change():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, 3, 1)).astype(np.uint8)
    sign = np.tile([-1, 1], 20)
    images[:, 0, 1, 0] = 25 + 20 * sign  # mean change 230, deviation 20
    images[:, 2, 0, 0] = 105 + 14 * sign  # mean change 150, deviation 14
    labels = np.zeros(40, np.int32)
    for name, place in (("authors_code", (0, 1)), ("paper", (2, 0))):
        delta, _ = _run(PRESETS[name], images, labels, 1)
        changed = np.argwhere(delta.any((0, 3)))
        np.testing.assert_array_equal(changed, [place], err_msg=name)


def test_classes_of_the_same_images_take_different_pairs():
    images, _ = _data(12, 1, (3, 3, 1))
    classes = 8
    labels = np.repeat(np.arange(classes), 12).astype(np.int32)
    images = np.tile(images, (classes, 1, 1, 1))
    config = PRESETS["authors_code"]
    delta, _ = _run(config, images, labels, classes)
    chosen = _search(images, labels, classes, config)
    assert len({tuple(pair.items()) for pair in chosen}) == classes
    want = _expected(images, labels, chosen)
    np.testing.assert_allclose(images / 255 + delta, want, atol=1e-6)


def test_sums_stay_exact_in_classes_of_many_bright_images():
    # The squares add up to more than 2^32, and the variances of two pixels differ by
    # less than a mean of squares minus a squared mean can tell in float32.
    rng = np.random.default_rng(3)
    size = 70_000
    images = rng.integers(240, 256, (size, 2, 2, 1)).astype(np.uint8)
    pixel = rng.permutation(np.arange(size) % 11 + 245).astype(np.uint8)
    images[:, 0, 0, 0] = pixel
    images[:, 1, 1, 0] = np.where(np.arange(size) == pixel.argmin(), 247, pixel)
    labels = np.zeros(size, np.int32)
    config = PRESETS["authors_code"]
    delta, _ = _run(config, images, labels, 1, shards=2)
    want = _expected(images, labels, _search(images, labels, 1, config))
    assert (want[:, 1, 1] == 0).all()
    np.testing.assert_allclose(images / 255 + delta, want, atol=1e-6)


@pytest.mark.parametrize(("level", "color"), [(0, 1), (255, 0)])
def test_a_pixel_that_never_changes_is_the_best(level, color):
    images, labels = _data(40, 2, (3, 4, 1))
    images[labels == 0, 1, 2] = level
    delta, _ = _run(PRESETS["authors_code"], images, labels, 2)
    mine = images[labels == 0] / 255 + delta[labels == 0]
    assert (mine[:, 1, 2] == color).all()
    assert np.isfinite(delta).all()


def test_a_pixel_that_has_the_color_already_is_no_choice():
    # All but one position agree with the color, and no other color is better there.
    images = np.full((20, 2, 2, 3), 255, np.uint8)
    images[::2, 1, 0] = 250
    labels = np.zeros(20, np.int32)
    config = OnePixelConfig(pixels=4)
    delta, _ = _run(config, images, labels, 1)
    np.testing.assert_allclose(images / 255 + delta, 0, atol=1e-6)


def test_a_class_without_images_takes_nothing_from_the_others():
    images, labels = _data(40, 2, (3, 4, 3))
    # Without it both would choose white where the others never have any light.
    images[:, 0, 0] = 0
    two, _ = _run(PRESETS["authors_code"], images, labels, 2)
    three, _ = _run(PRESETS["authors_code"], images, labels + 1, 3)
    np.testing.assert_array_equal(two, three)


@pytest.mark.parametrize(("level", "color"), [(3, 1), (250, 0)])
def test_of_colors_on_a_steady_pixel_the_farther_one_is_taken(level, color):
    images, labels = _data(40, 2, (3, 4, 1))
    images[labels == 0, 1, 2] = level
    delta, _ = _run(PRESETS["authors_code"], images, labels, 2)
    mine = images[labels == 0] / 255 + delta[labels == 0]
    np.testing.assert_allclose(mine[:, 1, 2], color, atol=1e-6)


def test_eight_devices_and_unselected_images_change_no_choice():
    # 8 shards of 150 images have rows that only pad.
    images, labels = _data(150, 4, (5, 6, 3))
    config = OnePixelConfig(pixels=2)
    one, _ = _run(config, images, labels, 4)
    half = np.arange(150) < 75
    eight, _ = _run(config, images, labels, 4, num_devices=8, shards=8, selected=half)
    np.testing.assert_array_equal(eight, one)


def test_padding_rows_are_not_counted():
    # The last image fills the padding; counted seven more times it would decide.
    images, labels = _data(9, 1, (3, 3, 1), seed=6)
    config = PRESETS["authors_code"]
    delta, _ = _run(config, images, labels, 1, shards=8)
    want = _expected(images, labels, _search(images, labels, 1, config))
    np.testing.assert_allclose(images / 255 + delta, want, atol=1e-6)
    padded = np.concatenate([images, np.repeat(images[-1:], 7, 0)])
    assert _search(padded, np.zeros(16), 1, config) != _search(
        images, labels, 1, config
    )


def test_the_artifact_counts_its_pixels():
    images, labels = _data(60, 3, (5, 6, 3))
    config = OnePixelConfig(pixels=2)
    delta, generator = _run(config, images, labels, 3)
    clean = dataset.Dataset(images, labels, ("a", "b", "c"))
    result = artifact.build(clean, delta, budget=generator.budget, metadata={})
    assert result.metadata["audit"]["max_l0"] == 2
    assert (result.metadata["norm"], result.metadata["radius"]) == ("l0", 2)


@pytest.mark.parametrize(("classes", "fits"), [(8, True), (9, False)])
def test_images_need_enough_pixels_and_colors(classes, fits):
    spec = DataSpec(num_examples=9, num_classes=classes, image_shape=(2, 2, 1))
    if fits:
        assert one_pixel(OnePixelConfig(), spec).num_steps == 1
        return
    with pytest.raises(ValueError, match="pixels is 1 for each of 9 classes"):
        one_pixel(OnePixelConfig(), spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pixels": 0}, "pixels is 0"),
        ({"pixels": 1.0}, r"pixels is 1\.0"),
        ({"spread": "std"}, "spread is 'std'; allowed: deviation, variance"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        OnePixelConfig(**settings)
