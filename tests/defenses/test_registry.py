"""One table of defenses, the same contract for all, and how they are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import defenses
from miue_jax.train import sampling
from miue_jax.victims import presets, training

SHAPE, CLASSES, SIZE = (16, 16, 3), 4, 32

CASES = {
    "none": "none",
    "cutout": "cutout-4",
    "cutmix": "cutmix",
    "mixup": "mixup",
    "gaussian_noise": "gaussian_noise-8",
    "gaussian_blur": "gaussian_blur",
    "rand_augment": "rand_augment",
    "ueraser": {"name": "ueraser", "repeats": 2},
    "adversarial_training": {
        "name": "adversarial_training",
        "radius": 4,
        "num_steps": 2,
        "eval_steps": 2,
    },
    "grayscale": "grayscale",
    "bit_depth": "bit_depth-2",
    "jpeg": "jpeg-50",
    "orthogonal_projection": {"name": "orthogonal_projection", "epochs": 2},
    "d_vae": {"name": "d_vae", "width": 8, "epochs": 1, "batch_size": 16},
}
each_defense = pytest.mark.parametrize("case", list(CASES))


def _create(case):
    return defenses.create(CASES[case], image_shape=SHAPE, num_classes=CLASSES)


def _data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SIZE, *SHAPE)).astype(np.uint8)
    return images, (np.arange(SIZE) % CLASSES).astype(np.int32)


def test_every_defense_is_here():
    assert {name.partition("-")[0] for name in defenses.NAMES} == set(CASES)


@each_defense
def test_images_stay_images(case):
    defense, (images, labels) = _create(case), _data()
    assert any(part is not None for part in defense) == (case != "none")
    if defense.purify is not None:
        before = images.copy()
        purified = defense.purify(jax.random.key(0), images, labels)
        assert purified.dtype == np.uint8
        assert purified.shape == images.shape
        assert (purified != images).any()
        np.testing.assert_array_equal(images, before, err_msg="the input was changed")
        again = defense.purify(jax.random.key(0), images, labels)
        np.testing.assert_array_equal(purified, again)
    if defense.augment is not None:
        floats = jnp.asarray(images, jnp.float32) / 255
        augmented, targets = jax.jit(defense.augment)(
            jax.random.key(0), floats, jnp.asarray(labels)
        )
        assert augmented.shape == floats.shape
        assert 0 <= augmented.min() <= augmented.max() <= 1
        assert (augmented != floats).any()
        assert targets.shape in ((SIZE,), (SIZE, CLASSES))
        if targets.ndim == 2:
            np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-5)


@each_defense
def test_a_victim_trains_behind_it(case):
    defense, (images, labels) = _create(case), _data()
    config = presets.VictimConfig(model="mlp2", width=8, epochs=1, batch_size=16)
    victim = training.victim(
        config, num_examples=SIZE, num_classes=CLASSES, defense=defense
    )
    dealt = sampling.deal(images, labels, 1)
    state = victim.init(jax.random.key(0), dealt)
    after, metrics = jax.jit(victim.step)(jax.random.key(1), state, dealt)
    assert np.isfinite(metrics["loss"].total)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()),
        state.shared.variables["params"],
        after.shared.variables["params"],
    )
    assert all(jax.tree.leaves(moved))
    assert (victim.evaluate_robust is None) == (defense.attack is None)
    if victim.evaluate_robust is not None:
        robust = victim.evaluate_robust(after, dealt)["accuracy"]
        assert 0 <= robust.total <= robust.weight == SIZE


def test_settings_are_those_of_the_function():
    known = defenses.parameters("adversarial_training")
    assert next(iter(known)) == "radius"
    assert known["radius"].default is known["radius"].empty
    assert known["protocol"].default == "miue"
    assert not defenses.parameters("none")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jpg-10", "unknown defense 'jpg-10'; did you mean 'jpeg'.*jpeg-<quality>"),
        ("jpeg", "'jpeg' needs its quality, as in 'jpeg-<quality>'"),
        ("jpeg-ten", "'jpeg-ten': 'ten' is not a number"),
        ("jpeg-200", "200"),
        ("grayscale-2", "'grayscale' takes no number, got 'grayscale-2'"),
        ({"name": "cutout", "sise": 4}, "unknown setting of cutout 'sise'.*'size'"),
        ({"size": 4}, "unknown defense None"),
        ({"name": "adversarial_training"}, "needs its radius"),
        ("adversarial_training-0", "radius is 0"),
        ("cutout-17", "17"),
    ],
)
def test_bad_names_and_settings_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        defenses.create(spec, image_shape=SHAPE, num_classes=CLASSES)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("jpeg-10", (8, 8, 3)),
        ("grayscale", (16, 16, 1)),
        ("cutout-16", (8, 8, 3)),
        ("d_vae", (15, 15, 3)),
        ("ueraser", (16, 16, 4)),
    ],
)
def test_a_defense_that_does_not_fit_the_images_is_refused(spec, shape):
    with pytest.raises(ValueError, match=str(shape[2 if spec == "ueraser" else 0])):
        defenses.create(spec, image_shape=shape, num_classes=CLASSES)
