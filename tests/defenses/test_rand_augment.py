"""RandAugment."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.rand_augment import rand_augment
from miue_jax.image import affine, color

_SHAPE = (16, 20, 3)


def _image():
    """Of a narrow range and not symmetric, so that every operation shows."""
    ramp = np.linspace(0.2, 0.85, _SHAPE[0] * _SHAPE[1]).reshape(_SHAPE[:2])
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, _SHAPE)
    return jnp.asarray(ramp[..., None] + noise, jnp.float32)


def _candidates(m):
    """All that an operation of magnitude 30 m may make of an image, by name."""
    image = _image()[None]

    def map_by(make, amount):
        maps = make(jnp.array([amount], jnp.float32))
        return jax.jit(affine.resample)(image, maps)

    height, width = _SHAPE[:2]
    result = {
        "identity": image,
        "autocontrast": color.autocontrast(image),
        "equalize": color.equalize(image),
        "posterize": color.posterize(image, 8 - round(4 * m)),
        "solarize": color.solarize(image, 256 * (1 - m) / 255),
    }
    for sign in (-1, 1):
        for name in ("brightness", "contrast", "color", "sharpness"):
            change = getattr(color, name)
            result[f"{name} {sign}"] = change(image, 1 + sign * 0.9 * m)
        for name, amount in {
            "rotation": 30 * m,
            "shear_x": 0.3 * m,
            "shear_y": 0.3 * m,
            "translation_x": int(150 / 331 * m * width),
            "translation_y": int(150 / 331 * m * height),
        }.items():
            change = getattr(affine, name)
            result[f"{name} {sign}"] = map_by(change, sign * amount)
    return {name: np.asarray(value)[0] for name, value in result.items()}


@functools.lru_cache
def _augmented(num_ops, magnitude, count=400):
    images = jnp.broadcast_to(_image(), (count, *_SHAPE))
    defense = rand_augment(_SHAPE, 10, num_ops=num_ops, magnitude=magnitude)
    result, labels = jax.jit(defense.augment)(
        jax.random.key(0), images, jnp.arange(count)
    )
    np.testing.assert_array_equal(labels, np.arange(count))
    return np.asarray(result)


def test_each_image_gets_one_of_the_operations_with_a_random_sign():
    result = _augmented(1, 15)
    candidates = _candidates(0.5)
    gaps = np.stack(
        [np.abs(result - value).max((1, 2, 3)) for value in candidates.values()]
    )
    assert gaps.min(0).max() < 1e-4, "a result that no operation explains"
    assert ((gaps < 1e-4).sum(0) == 1).all(), "the test cannot tell two apart"
    counts = dict(zip(candidates, (gaps < 1e-4).sum(1), strict=True))
    for name, count in counts.items():
        signed = name[-1] == "1"
        # One in 14 of 400, half of it for each sign.
        expected = 400 / 14 / (2 if signed else 1)
        assert abs(count - expected) < 4 * np.sqrt(expected), (name, count)


def test_two_operations_follow_each_other():
    twice = _augmented(2, 15)
    candidates = np.stack(list(_candidates(0.5).values()))
    gaps = np.abs(twice[:, None] - candidates).max((2, 3, 4))
    explained = (gaps.min(1) < 1e-4).mean()
    # About one in seven has an identity among its two operations.
    assert 0.1 < explained < 0.3, "a second operation is missing or the same"


def test_magnitude_zero_only_stretches_contrast():
    result = _augmented(1, 0)
    image = np.asarray(_image())
    same = np.abs(result - image).max((1, 2, 3)) <= 1 / 255
    # All but autocontrast and equalize.
    assert abs(same.mean() - 12 / 14) < 0.07


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_ops": 0}, "num_ops is 0; allowed: whole numbers > 0"),
        ({"num_ops": 1.5}, "num_ops is 1.5"),
        ({"magnitude": -1}, "magnitude is -1; allowed: finite numbers >= 0"),
        ({"magnitude": 31}, r"magnitude is 31; allowed: numbers in \[0, 30\]"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        rand_augment(_SHAPE, 10, **settings)


def test_needs_gray_or_color():
    with pytest.raises(ValueError, match="1 or 3 channels, these have 4"):
        rand_augment((16, 16, 4), 10)
