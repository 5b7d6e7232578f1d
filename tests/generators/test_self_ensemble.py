"""SEP: checkpoints of one training, their features' means, the steps they agree on."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miue_jax.generators import DataSpec, checkpoint_ensemble, surrogate
from miue_jax.generators.self_ensemble import PRESETS, self_ensemble
from miue_jax.train import sampling

SIZE, CLASSES, SHARDS, EPOCHS = 38, 5, 2, 5
SPEC = DataSpec(
    num_examples=SIZE,
    num_classes=CLASSES,
    image_shape=(8, 8, 3),
    num_shards=SHARDS,
)
SELECTED = np.arange(SIZE) % 3 != 0
TRAIN, VISITS = EPOCHS * 3, 3


def _small(preset: str, **changes):
    small: dict[str, Any] = {
        "model": "mlp2",
        "width": 16,
        "epochs": EPOCHS,
        "batch_size": 16,
        "perturbation_batch_size": 16,
        "checkpoints": 2,
        "pgd_steps": 1,
        "inner_steps": 0,
    }
    return dataclasses.replace(PRESETS[preset], **{**small, **changes})


def _images() -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (SIZE, 8, 8, 3))
    # Classes of different sizes.
    return images.astype(np.uint8), np.minimum(np.arange(SIZE) % 7, CLASSES - 1)


@functools.cache
def _states(config):
    """The states of a run after every step, and the generator."""
    images, labels = _images()
    data = sampling.deal(images, labels, SHARDS, selected=SELECTED)
    generator = self_ensemble(config, SPEC)
    step, key = jax.jit(generator.step), jax.random.key(0)
    states = [generator.init(key, data)]
    for _ in range(generator.num_steps):
        states.append(step(key, states[-1], data)[0])
    return states, generator


def _forward(config, variables, images):
    module = surrogate.create(config, SPEC)
    seen = surrogate.normalize(images, config)
    outputs: Any = module.apply(variables, seen, train=False)
    return outputs


def _checkpoint(state, k: int):
    return jax.tree.map(lambda leaf: leaf[k], state.shared.stack.variables)


def test_checkpoints_are_those_after_evenly_spaced_epochs():
    states, _ = _states(_small("feature_alignment"))
    # Two checkpoints of five epochs: after the third and the fifth.
    for k, epoch in enumerate((3, 5)):
        learner = states[3 * epoch].shared.learner.variables
        jax.tree.map(np.testing.assert_array_equal, _checkpoint(states[-1], k), learner)
    moved = jax.tree.map(
        lambda leaf: float(np.abs(leaf[0] - leaf[1]).max()),
        states[-1].shared.stack.variables["params"]["dense1"],
    )
    assert min(moved.values()) > 0


def test_features_are_averaged_over_all_images_of_a_class_for_each_checkpoint():
    config = _small("feature_alignment")
    states, generator = _states(config)
    assert generator.num_steps == TRAIN + 2 * VISITS
    images, labels = _images()
    shared = states[-1].shared
    np.testing.assert_array_equal(shared.counts, np.bincount(labels, minlength=CLASSES))
    for k in range(2):
        features, _ = _forward(
            config, _checkpoint(states[-1], k), images / np.float32(255)
        )
        want = [np.asarray(features)[labels == c].sum(0) for c in range(CLASSES)]
        np.testing.assert_allclose(
            shared.stack.sums[k], np.stack(want), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("preset", ["feature_alignment", "sep"])
def test_a_step_leads_all_checkpoints_to_the_class_half_way_round(preset):
    config = _small(preset)
    states, generator = _states(config)
    assert generator.num_steps == TRAIN + VISITS * (2 if preset != "sep" else 1)
    images, labels = _images()
    images = images / np.float32(255)
    targets = (labels + 2) % CLASSES

    def loss(perturbed, k):
        features, logits = _forward(config, _checkpoint(states[-1], k), perturbed)
        if preset == "sep":
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, targets
            ).sum()
        clean, _ = _forward(config, _checkpoint(states[-1], k), images)
        means = jnp.stack([clean[labels == c].mean(0) for c in range(CLASSES)])
        return jnp.square(features - means[targets]).mean(-1).sum()

    gradient = sum(jax.grad(loss)(images, k) for k in range(2))
    want = -config.step_size / 255 * np.sign(gradient)
    want = np.clip(images + want, 0, 1) - images
    delta = sampling.collect(np.asarray(generator.perturbation(states[-1])), SIZE)
    np.testing.assert_array_equal(delta[~SELECTED], 0)
    agrees = np.abs(delta - want)[SELECTED] < 1e-6
    assert agrees.mean() > 0.98, f"{agrees.mean():.1%} of the values agree"


def test_every_image_is_attacked_once():
    states, generator = _states(_small("sep"))
    deltas = [
        np.asarray(generator.perturbation(state)) for state in states[-VISITS - 1 :]
    ]
    changed = sum(
        sampling.collect(b != a, SIZE).any((1, 2, 3)).astype(int)
        for a, b in itertools.pairwise(deltas)
    )
    np.testing.assert_array_equal(changed, SELECTED)


def test_variance_reduction_draws_other_checkpoints_for_every_batch_and_seed():
    config = _small("variance_reduced", inner_steps=2, pgd_steps=2, checkpoints=3)
    states, generator = _states(config)
    plain, _ = _states(dataclasses.replace(config, inner_steps=0))
    delta = np.asarray(generator.perturbation(states[-1]))
    assert np.abs(delta).max() == pytest.approx(2 / 255, rel=1e-4)
    assert (delta != np.asarray(generator.perturbation(plain[-1]))).any()
    # The training before it is the same.
    jax.tree.map(
        np.testing.assert_array_equal,
        states[-1].shared.learner.variables,
        plain[-1].shared.learner.variables,
    )


def test_the_released_code_aims_at_the_means_of_the_last_checkpoint_within_a_step():
    settings: dict[str, Any] = {"inner_steps": 2, "checkpoints": 3}
    own, last = (
        _states(_small(preset, **settings))
        for preset in ("variance_reduced", "authors_code")
    )
    # What is kept of the checkpoints is the same.
    jax.tree.map(np.testing.assert_array_equal, own[0][-1].shared, last[0][-1].shared)
    first, second = (
        np.asarray(generator.perturbation(states[-1]))
        for states, generator in (own, last)
    )
    differing = (first != second).mean()
    assert 0 < differing < 1, f"{differing:.1%} of the values differ"
    # Where nothing is drawn the means are each checkpoint's own in both.
    plain = _states(_small("feature_alignment"))[0][-1]
    told = _states(_small("feature_alignment", inner_means="last"))[0][-1]
    np.testing.assert_array_equal(plain.per_example.stored, told.per_example.stored)


@pytest.mark.parametrize(
    ("preset", "last"), [("variance_reduced", False), ("authors_code", True)]
)
def test_the_means_within_a_step_are_the_last_ones_or_each_its_own(
    monkeypatch, preset, last
):
    def descend(key, cost, stack, images, steps, *, inner_stack):
        wanted = stack.sums[-1:] if last else stack.sums
        fits = jnp.all(inner_stack.sums == wanted) & jnp.any(
            stack.sums[0] != stack.sums[-1]
        )
        return jnp.full_like(images, jnp.where(fits, 1, 2) / 255), jnp.float32(0)

    monkeypatch.setattr(checkpoint_ensemble, "descend", descend)
    states, generator = _states.__wrapped__(_small(preset, inner_steps=2))
    delta = sampling.collect(np.asarray(generator.perturbation(states[-1])), SIZE)
    np.testing.assert_allclose(delta[SELECTED], 1 / 255, rtol=1e-6)


def test_presets_state_the_published_settings():
    reduced, aligned, plain = (
        PRESETS[name] for name in ("variance_reduced", "feature_alignment", "sep")
    )
    assert [c.checkpoints for c in (reduced, aligned, plain)] == [15, 30, 30]
    assert [c.inner_steps for c in (reduced, aligned, plain)] == [15, 0, 0]
    assert [c.objective for c in (reduced, aligned, plain)] == [
        "features",
        "features",
        "cross_entropy",
    ]
    assert PRESETS["authors_code"] == dataclasses.replace(reduced, inner_means="last")
    for config in (reduced, aligned, plain):
        assert config.inner_means == "own"
        assert (config.epochs, config.pgd_steps, config.step_size) == (120, 30, 1.0)
        assert (config.radius, config.normalization) == (8, "cifar10")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": 0}, "checkpoints is 0"),
        ({"epochs": 20}, r"checkpoints \(30\) must be at most one per epoch.* 20"),
        ({"objective": "logits"}, "objective is 'logits'; .*llowed: cross_entropy"),
        ({"inner_means": "first"}, "inner_means is 'first'; .*llowed: own, last"),
        ({"inner_steps": -1}, "inner_steps is -1"),
        ({"pgd_steps": 0}, "pgd_steps is 0"),
        ({"step_size": 0.0}, r"step_size is 0\.0"),
        ({"radius": 300}, "radius is 300"),
        ({"perturbation_batch_size": 0}, "perturbation_batch_size is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["sep"], **changes)
