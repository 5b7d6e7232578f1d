"""TrivialAugment: which operations it draws, how strong, and for whom."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.trivial_augment import trivial_augment

KEYS = jax.random.split(jax.random.key(0), 4000)
# (lowest, highest) for images of 10x20.
AMOUNTS = {
    "rotate": (-30, 30),
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "translate_x": (-10, 10),
    "translate_y": (-5, 5),
    "brightness": (0.1, 1.9),
    "contrast": (0.1, 1.9),
    "sharpness": (0.1, 1.9),
    "solarize": (0, 1),
}


@pytest.fixture(scope="module")
def drawn():
    seen = {}

    def record(images, operations, choice, amounts):
        seen.update(operations=operations, choice=choice, amounts=amounts)
        return images

    module = importlib.import_module("miue_jax.defenses.trivial_augment")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "apply_chosen", record)
        trivial_augment(KEYS, jnp.zeros((len(KEYS), 10, 20, 3)))
    choice, amounts = np.asarray(seen["choice"]), np.asarray(seen["amounts"])
    return {
        name: amounts[choice == index] for index, name in enumerate(seen["operations"])
    }


def test_all_twelve_operations_are_equally_likely(drawn):
    assert set(drawn) == {*AMOUNTS, "autocontrast", "equalize", "posterize"}
    for name, amounts in drawn.items():
        assert len(amounts) == pytest.approx(len(KEYS) / 12, rel=0.3), name


def test_amounts_fill_their_ranges(drawn):
    for name, (low, high) in AMOUNTS.items():
        amounts, width = drawn[name], high - low
        assert low <= amounts.min() < low + 0.03 * width, name
        assert high - 0.03 * width < amounts.max() <= high, name
        assert amounts.mean() == pytest.approx((low + high) / 2, abs=0.1 * width), name


def test_posterize_keeps_one_to_four_bits(drawn):
    bits, counts = np.unique(drawn["posterize"], return_counts=True)
    np.testing.assert_array_equal(bits, [1, 2, 3, 4])
    assert counts.min() > 0.5 * counts.max()


def test_images_stay_images_and_are_changed_alone():
    keys = KEYS[:48]
    images = jax.random.uniform(jax.random.key(1), (48, 8, 8, 3))
    augment = jax.jit(trivial_augment)
    result = augment(keys, images)
    assert result.dtype == images.dtype
    assert float(jnp.min(result)) >= 0
    assert float(jnp.max(result)) <= 1
    changed = jnp.any(jnp.abs(result - images) > 1e-3, axis=(1, 2, 3))
    assert float(jnp.mean(changed)) > 0.8
    others = images.at[1:].set(0.5)
    np.testing.assert_array_equal(augment(keys, others)[0], result[0])
