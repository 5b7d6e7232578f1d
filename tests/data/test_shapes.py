import numpy as np
import pytest

from miue_jax.data import dataset, load, shapes


@pytest.fixture(scope="module")
def drawn():
    return shapes.generate(1000, seed=0)


def masks(radius=7.0, angle=0.0):
    """Each class's cover of the pixels, in the middle of the image."""
    count = len(shapes.CLASS_NAMES)
    return shapes._masks(
        np.arange(count),
        np.full((count, 2), shapes.SIZE / 2, np.float32),
        np.full(count, radius, np.float32),
        np.full(count, angle, np.float32),
    )


def test_it_is_a_valid_balanced_data_set_with_sorted_classes(drawn):
    dataset.validate(drawn)
    assert drawn.images.shape == (1000, 32, 32, 3)
    assert np.bincount(drawn.labels).tolist() == [100] * 10
    # Sorted, an image folder written from it has the same labels.
    assert list(drawn.class_names) == sorted(drawn.class_names)


def test_a_seed_gives_the_same_images_and_a_prefix_of_more(drawn):
    again = shapes.generate(260, seed=0)
    np.testing.assert_array_equal(again.images, drawn.images[:260])
    np.testing.assert_array_equal(again.labels, drawn.labels[:260])


def test_seeds_and_splits_share_no_image(drawn):
    sets = [
        drawn,
        shapes.generate(250, seed=1),
        shapes.generate(250, seed=0, split="test"),
        shapes.generate(250, seed=1, split="test"),
    ]
    images = [image.tobytes() for each in sets for image in each.images]
    assert len(set(images)) == len(images)


def test_all_classes_have_one_area_at_any_angle():
    for angle in (0.0, 0.7):
        areas = masks(angle=angle).sum((1, 2))
        np.testing.assert_allclose(areas, np.pi * 7**2, rtol=0.03)


def test_classes_differ_at_every_rotation():
    upright = masks()
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        turned = masks(angle=angle)
        difference = np.abs(upright[:, None] - turned[None]).sum((2, 3))
        np.fill_diagonal(difference, np.inf)
        # In pixels, of the 154 that each shape covers.
        assert difference.min() > 12


def test_edges_are_antialiased_and_shapes_rotate():
    upright = masks()
    assert ((upright > 0.05) & (upright < 0.95)).any((1, 2)).all()
    changes = np.abs(masks(angle=0.5) - upright).sum((1, 2))
    round_shapes = {"circle", "ring"}
    for name, change in zip(shapes.CLASS_NAMES, changes, strict=True):
        assert (change < 1e-2) == (name in round_shapes), name


def test_color_does_not_give_the_class_away(drawn):
    """Neither mean colors nor contrasts tell the classes apart."""
    images = drawn.images / 255
    features = np.concatenate([images.mean((1, 2)), images.std((1, 2))], axis=1)
    features = (features - features.mean(0)) / features.std(0)
    by_class = np.stack([features[drawn.labels == k].mean(0) for k in range(10)])
    # A hundred draws each: the standard error is 0.1.
    assert np.abs(by_class).max() < 0.4


def test_the_values_use_the_range_without_saturating(drawn):
    saturated = np.isin(drawn.images, (0, 255)).mean()
    assert saturated < 0.03
    assert 40 < drawn.images.mean() < 165
    assert drawn.images.std() > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "num_images is 0; allowed"),
        ({"num_images": 5, "seed": -1}, "seed is -1; allowed"),
        ({"num_images": 5, "split": "valid"}, "did you mean 'train'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes.generate(**options)


def test_more_than_there_is_memory_for_is_not_begun():
    with pytest.raises(ValueError, match=r"1000000000 images would need 3\.09e\+03 GB"):
        shapes.generate(10**9)
    with pytest.raises(ValueError, match="set by the environment variable MIUE_MEMORY"):
        load("shapes", per_class=10**8)
