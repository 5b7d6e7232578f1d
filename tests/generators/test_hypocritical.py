"""HYPO: a robust surrogate is surer of its images than before."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import DataSpec, surrogate
from miue_jax.generators import hypocritical as hypo
from miue_jax.generators.hypocritical import PRESETS, hypocritical
from miue_jax.train import sampling

SIZE, CLASSES = 48, 4
SPEC = DataSpec(num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 3))


def _small(preset: str, **changes):
    small: dict[str, Any] = {
        "model": "mlp2",
        "width": 16,
        "epochs": 2,
        "learning_rate": 0.02,
        "batch_size": 16,
        "perturbation_batch_size": 24,
        "pgd_steps": 10,
        "train_pgd_steps": 3,
        "shift": 0.1,
    }
    return dataclasses.replace(PRESETS[preset], **{**small, **changes})


def _run(config):
    images = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8, 3))
    labels = np.arange(SIZE) % CLASSES
    images = images.astype(np.uint8)
    data = sampling.deal(images, labels, 1)
    generator = hypocritical(config, SPEC)
    step, key = jax.jit(generator.step), jax.random.key(0)
    state = generator.init(key, data)
    for _ in range(generator.num_steps):
        state, _ = step(key, state, data)
    variables = state.shared.learner.variables
    delta = np.asarray(generator.perturbation(state))[0]
    module = surrogate.create(config, SPEC)

    def chances(images):
        outputs: Any = module.apply(variables, images, train=False)
        return np.asarray(jax.nn.softmax(outputs[1]))

    clean = images / np.float32(255)
    return variables, labels, chances(clean), chances(clean + delta)


@pytest.mark.parametrize(("preset", "ahead"), [("hypocritical", 0), ("adversarial", 1)])
def test_the_surrogate_is_led_to_the_class_that_the_preset_says(preset, ahead):
    _, labels, before, after = _run(_small(preset))
    rows, wanted = np.arange(SIZE), (labels + ahead) % CLASSES
    assert (after > before)[rows, wanted].mean() > 0.95
    others = (labels + 1 - ahead) % CLASSES
    assert (after > before)[rows, others].mean() < 0.5


def test_the_surrogate_is_trained_on_attacked_images():
    small, large = (
        _run(_small("hypocritical", train_radius=radius))[0]["params"]
        for radius in (1.0, 64.0)
    )
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), small, large)
    assert min(jax.tree.leaves(moved["dense1"])) > 1e-4


def test_the_training_attack_raises_the_loss_within_its_radius():
    config = _small("hypocritical", train_radius=4.0, train_pgd_steps=12)
    attack = hypo._train_attack(config)
    images = jax.random.uniform(jax.random.key(1), (16, 8, 8, 3))
    labels = jnp.arange(16) % CLASSES
    weights = 0.1 * jax.random.normal(jax.random.key(2), (8 * 8 * 3, CLASSES))

    def predict(images):
        return images.reshape(len(images), -1) @ weights

    keys = jax.random.split(jax.random.key(3), 16)
    attacked = attack(keys, predict, images, labels)
    delta = np.asarray(attacked - images)
    assert np.abs(delta).max() == pytest.approx(4 / 255, rel=1e-4)
    assert attacked.min() >= -1e-6
    assert attacked.max() <= 1 + 1e-6

    def right(images):
        return jax.nn.log_softmax(predict(images))[np.arange(16), labels]

    assert (right(attacked) < right(images)).all()
    # Twelve steps of a quarter of the radius reach the border from anywhere in it.
    assert (np.abs(delta) > 3.99 / 255).mean() > 0.5
    short = hypo._train_attack(dataclasses.replace(config, train_pgd_steps=1))
    first = np.asarray(short(keys, predict, images, labels) - images)
    assert len(np.unique(first.round(5))) > 100, "the start is not drawn"
    other = short(jax.random.split(jax.random.key(4), 16), predict, images, labels)
    assert (np.asarray(other - images) != first).any()


def test_presets_state_the_published_settings():
    config = PRESETS["hypocritical"]
    assert next(iter(PRESETS)) == "hypocritical"
    assert (config.train_radius, config.train_pgd_steps, config.epochs) == (2, 10, 10)
    assert (config.radius, config.step_size, config.pgd_steps) == (8, 0.8, 100)
    assert (config.shift, config.start, config.normalization) == (
        8 / 31,
        "zero",
        "none",
    )
    assert config.perturbation_batch_size == 256
    assert config.milestones == ()
    other = PRESETS["adversarial"]
    assert dataclasses.replace(other, objective="own_class") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_radius": 0}, "^train_radius is 0; allowed: whole gray levels"),
        ({"train_pgd_steps": 0}, "train_pgd_steps is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["hypocritical"], **changes)
