"""AP: its surrogate takes what it publishes for other classes."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from miue_jax.budget import Budget
from miue_jax.generators import DataSpec, surrogate
from miue_jax.generators.adversarial_poisoning import PRESETS, adversarial_poisoning
from miue_jax.train import metrics as means
from miue_jax.train import sampling

SIZE, CLASSES = 48, 4
SPEC = DataSpec(num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 3))


def _small(preset: str, **changes):
    small: dict[str, Any] = {
        "model": "mlp2",
        "width": 16,
        "epochs": 10,
        "learning_rate": 0.02,
        "batch_size": 16,
        "perturbation_batch_size": 24,
        "restarts": 2,
        "radius": 64.0,
        "step_size": 8.0,
        "pgd_steps": 20,
        "shift": 0.1,
    }
    return dataclasses.replace(PRESETS[preset], **{**small, **changes})


@pytest.mark.parametrize("preset", list(PRESETS))
def test_the_surrogate_is_deceived_as_the_preset_says(preset):
    config = _small(preset)
    rng = np.random.default_rng(0)
    labels = np.arange(SIZE) % CLASSES
    # Classes differ in color, which crops and flips leave.
    colors = 60 * np.eye(CLASSES, 3, dtype=int)[labels]
    images = rng.integers(0, 60, (SIZE, 8, 8, 3)) + colors[:, None, None]
    images = images.astype(np.uint8)
    data = sampling.deal(images, labels, 1)
    generator = adversarial_poisoning(config, SPEC)
    assert generator.budget == Budget("linf", 64.0)
    assert generator.num_steps == 10 * 3 + 2 * 2
    step, key = jax.jit(generator.step), jax.random.key(0)
    state, metrics = generator.init(key, data), {}
    for _ in range(generator.num_steps):
        state, metrics = step(key, state, data)
    assert set(means.values(metrics)) == {"perturbation_loss"}
    delta = np.asarray(generator.perturbation(state))[0]
    module = surrogate.create(config, SPEC)

    def chances(images):
        seen = surrogate.normalize(images, config)
        outputs: Any = module.apply(state.shared.learner.variables, seen, train=False)
        return np.asarray(jax.nn.softmax(outputs[1]))

    clean = images / np.float32(255)
    before, after = chances(clean), chances(clean + delta)
    rows = np.arange(SIZE)
    if preset == "untargeted":
        assert (after < before)[rows, labels].mean() > 0.9
        assert (np.argmax(after, -1) == labels).mean() < 0.3
    else:
        aims = (labels + 1) % CLASSES
        assert (after > before)[rows, aims].mean() > 0.9
        assert (np.argmax(after, -1) == aims).mean() > 0.5


def test_presets_state_the_published_settings():
    targeted, untargeted = PRESETS["targeted"], PRESETS["untargeted"]
    assert next(iter(PRESETS)) == "targeted"
    assert dataclasses.replace(untargeted, objective=targeted.objective) == targeted, (
        "the variants differ in the objective only"
    )
    assert (targeted.radius, targeted.step_size, targeted.pgd_steps) == (8, 0.4, 250)
    assert (targeted.restarts, targeted.start, targeted.shift) == (8, "normal", 8 / 31)
    assert (targeted.epochs, targeted.batch_size, targeted.learning_rate) == (
        40,
        128,
        0.1,
    )
    assert (targeted.model, targeted.normalization) == ("resnet18", "cifar10")
    assert targeted.nesterov
    assert targeted.perturbation_batch_size == 512
    robust = PRESETS["robust_code"]
    assert (robust.step_size, robust.restarts, robust.start) == (0.064, 1, "uniform")


@pytest.mark.parametrize("restarts", [0, 1.5, True])
def test_restarts_are_whole_numbers(restarts):
    with pytest.raises(ValueError, match=f"restarts is {restarts}"):
        dataclasses.replace(PRESETS["targeted"], restarts=restarts)
