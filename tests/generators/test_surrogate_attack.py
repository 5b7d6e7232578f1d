"""The attack that AP and HYPO share: its steps, its visits, its restarts."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miue_jax.generators import surrogate
from miue_jax.generators.surrogate_attack import surrogate_attack
from miue_jax.generators.surrogate_attack_config import SurrogateAttackConfig
from miue_jax.train import metrics as means
from miue_jax.train import sampling

SIZE, CLASSES, SHARDS = 44, 4, 2
CONFIG = SurrogateAttackConfig(
    model="mlp2",
    width=16,
    normalization="cifar10",
    batch_size=16,
    epochs=1,
    step_size=2.0,
    pgd_steps=2,
    radius=3.0,
    perturbation_batch_size=16,
    shift=0.0,
)
VISITS = 3


def _images(low: int = 0, high: int = 256) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(low, high, (SIZE, 8, 8, 3))
    return images.astype(np.uint8), np.arange(SIZE) % CLASSES


@functools.cache
def _build(config: SurrogateAttackConfig, restarts: int):
    method = surrogate_attack(
        config,
        restarts=restarts,
        num_examples=SIZE,
        num_classes=CLASSES,
        num_shards=SHARDS,
    )
    return method, jax.jit(method.step)


def _run(config, *, restarts=1, seed=0, images=None, selected=None):
    """Yields the state and the metrics after every step."""
    images, labels = _images() if images is None else images
    data = sampling.deal(images, labels, SHARDS, selected=selected)
    method, step = _build(config, restarts)
    key = jax.random.key(seed)
    state = method.init(key, data)
    for _ in range(method.num_steps):
        state, metrics = step(key, state, data)
        yield state, metrics


def _last(config, **options):
    *_, (state, metrics) = _run(config, **options)
    method, _ = _build(config, options.get("restarts", 1))
    return (
        state,
        metrics,
        sampling.collect(np.asarray(method.perturbation(state)), SIZE),
    )


def _total_loss(config, variables, perturbed, labels):
    """The attack's loss, written down a second time."""
    module = surrogate.create(config, num_classes=CLASSES, axis_name=None)
    seen = (perturbed - np.array([0.4914, 0.4822, 0.4465])) / np.array(
        [0.2470, 0.2435, 0.2616]
    )
    outputs: Any = module.apply(variables, seen.astype(jnp.float32), train=False)
    if config.objective == "next_class":
        labels = np.where(labels == CLASSES - 1, 0, labels + 1)
    values = optax.softmax_cross_entropy_with_integer_labels(outputs[1], labels).sum()
    return -values if config.objective == "other_class" else values


@pytest.mark.parametrize("objective", ["next_class", "own_class", "other_class"])
def test_steps_are_sign_descent_on_views_that_are_drawn_anew(objective):
    config = dataclasses.replace(CONFIG, objective=objective)
    images, labels = _images()
    images = images / np.float32(255)
    state, _, delta = _last(config)
    gradient = jax.jit(
        jax.grad(
            lambda x: _total_loss(config, state.shared.learner.variables, x, labels)
        )
    )
    wanted = {}
    # Without a shift a view is the image or its mirror image: two steps, four ways.
    for mirrored in itertools.product((False, True), repeat=2):
        want = np.zeros_like(images)
        for mirror in mirrored:
            turn = (lambda x: x[:, :, ::-1]) if mirror else (lambda x: x)
            sign = turn(np.sign(np.asarray(gradient(turn(images + want)))))
            want = np.clip(want - 2 / 255 * sign, -3 / 255, 3 / 255)
            want = np.clip(images + want, 0, 1) - images
        wanted[mirrored] = (np.abs(delta - want) < 1e-5).mean((1, 2, 3))
    agreement = np.stack(list(wanted.values()))
    assert (agreement.max(0) > 0.98).all(), agreement.max(0).min()
    assert len(set(agreement.argmax(0))) == 4, "some views are never drawn"


def test_every_image_is_attacked_once_and_counted_once():
    selected = np.arange(SIZE) % 5 != 0
    previous, changed, weight = None, np.zeros(SIZE, int), 0.0
    for state, metrics in _run(CONFIG, selected=selected):
        delta = sampling.collect(np.asarray(state.per_example.delta), SIZE)
        if previous is not None:
            changed += (delta != previous).any((1, 2, 3))
        previous, weight = delta, weight + float(metrics["perturbation_loss"].weight)
    np.testing.assert_array_equal(changed, selected)
    assert weight == selected.sum()


def test_the_surrogate_is_trained_on_clean_images_whatever_is_selected():
    none = np.arange(SIZE) == 7
    kernels = [
        _last(CONFIG, selected=selected)[0].shared.learner.variables["params"]
        for selected in (None, none)
    ]
    jax.tree.map(np.testing.assert_array_equal, *kernels)


def test_starts_are_drawn_as_said():
    gray = _images(100, 156)
    tiny = dataclasses.replace(CONFIG, step_size=1e-4, pgd_steps=1, radius=8.0)
    found = {}
    for start in ("zero", "uniform", "normal"):
        config = dataclasses.replace(tiny, start=start)
        _, _, delta = _last(config, images=gray)
        found[start] = delta * 255 / 8
        assert np.abs(found[start]).max() < 1 + 1e-4
    assert np.abs(found["zero"]).max() < 2e-5
    assert found["uniform"].std() == pytest.approx(1 / np.sqrt(3), rel=0.03)
    # Of a normal draw 31.7 % lie further out than one deviation.
    at_border = np.abs(found["normal"]) > 1 - 1e-3
    assert at_border.mean() == pytest.approx(0.317, abs=0.02)
    for start in ("uniform", "normal"):
        pairs = found[start].reshape(SIZE, -1)
        assert len(np.unique(pairs, axis=0)) == SIZE
        _, _, other = _last(dataclasses.replace(tiny, start=start), images=gray, seed=1)
        assert (np.sign(other) != np.sign(found[start])).mean() > 0.4


@pytest.mark.parametrize("selected", [None, np.arange(SIZE) % 2 == 1])
def test_the_restart_of_the_lowest_loss_is_kept(selected):
    config = dataclasses.replace(CONFIG, start="uniform", step_size=1e-3)
    restarts, best = 3, []
    for seed in range(8):
        losses, deltas = [], []
        total = weight = 0.0
        for state, metrics in _run(
            config, restarts=restarts, seed=seed, selected=selected
        ):
            measured = metrics["perturbation_loss"]
            total, weight = total + float(measured.total), weight + measured.weight
            if weight == (SIZE if selected is None else selected.sum()):
                losses.append(total / float(weight))
                deltas.append(np.asarray(state.per_example.delta))
                total = weight = 0.0
        assert len(losses) == restarts
        best.append(int(np.argmin(losses)))
        method, _ = _build(config, restarts)
        kept = np.asarray(method.perturbation(state))
        np.testing.assert_allclose(kept, deltas[best[-1]], atol=1e-7)
        assert np.abs(deltas[0] - deltas[1]).max() > 1e-3
        assert float(state.shared.lowest) == pytest.approx(min(losses), rel=1e-5)
    assert set(best) == {0, 1, 2}, "the draws never put one of the places first"


def test_the_loss_reported_is_that_before_the_last_step():
    config = dataclasses.replace(CONFIG, step_size=1.0, pgd_steps=1)
    images, labels = _images()
    means_of = [metrics for _, metrics in _run(config)]
    variables = _last(config)[0].shared.learner.variables
    totals = sum(float(m["perturbation_loss"].total) for m in means_of)
    # With one step from 0 these are losses of clean images, mirrored or not.
    plain, turned = (
        float(_total_loss(config, variables, x / np.float32(255), labels))
        for x in (images, images[:, :, ::-1])
    )
    assert totals / SIZE == pytest.approx((plain + turned) / 2 / SIZE, rel=0.1)
    assert "surrogate_loss" not in means.values(means_of[-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "next"}, "objective is 'next'; allowed: next_class, own_class"),
        ({"radius": 8.5}, r"radius is 8\.5"),
        ({"step_size": 0}, "step_size is 0"),
        ({"pgd_steps": 0}, "pgd_steps is 0"),
        ({"start": "random"}, "start is 'random'; allowed: zero, uniform, normal"),
        ({"shift": 4}, "shift is 4; allowed"),
        ({"perturbation_batch_size": 0}, "perturbation_batch_size is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)
