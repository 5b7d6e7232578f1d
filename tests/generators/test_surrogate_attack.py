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

from miue_jax.generators import DataSpec, surrogate
from miue_jax.generators.surrogate_attack import (
    SurrogateAttackConfig,
    shift_and_flip,
    surrogate_attack,
)
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
SPEC = DataSpec(
    num_examples=SIZE,
    num_classes=CLASSES,
    image_shape=(8, 8, 3),
    num_shards=SHARDS,
)


def _images(low: int = 0, high: int = 256) -> tuple[np.ndarray, np.ndarray]:
    images = np.random.default_rng(0).integers(low, high, (SIZE, 8, 8, 3))
    return images.astype(np.uint8), np.arange(SIZE) % CLASSES


@functools.cache
def _build(config: SurrogateAttackConfig, restarts: int):
    generator = surrogate_attack(config, SPEC, restarts=restarts)
    return generator, jax.jit(generator.step)


def _run(config, *, restarts=1, seed=0, images=None, selected=None):
    """Yields the state and the metrics after every step."""
    images, labels = _images() if images is None else images
    data = sampling.deal(images, labels, SHARDS, selected=selected)
    generator, step = _build(config, restarts)
    key = jax.random.key(seed)
    state = generator.init(key, data)
    for _ in range(generator.num_steps):
        state, metrics = step(key, state, data)
        yield state, metrics


def _last(config, **options):
    *_, (state, metrics) = _run(config, **options)
    generator, _ = _build(config, options.get("restarts", 1))
    return (
        state,
        metrics,
        sampling.collect(np.asarray(generator.perturbation(state)), SIZE),
    )


def _total_loss(config, variables, perturbed, labels):
    """The attack's loss, written down a second time."""
    module = surrogate.create(config, SPEC)
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
        delta = sampling.collect(np.asarray(state.per_example.stored), SIZE)
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
                deltas.append(np.asarray(state.per_example.stored))
                total = weight = 0.0
        assert len(losses) == restarts
        best.append(int(np.argmin(losses)))
        generator, _ = _build(config, restarts)
        kept = np.asarray(generator.perturbation(state))
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
        (
            {"objective": "next"},
            "objective is 'next'; did you mean 'next_class'",
        ),
        ({"radius": 8.5}, r"radius is 8\.5"),
        ({"step_size": 0}, "step_size is 0"),
        ({"pgd_steps": 0}, "pgd_steps is 0"),
        ({"start": "random"}, "start is 'random'; .*llowed: zero, uniform, normal"),
        ({"shift": 4}, "shift is 4; allowed"),
        ({"perturbation_batch_size": 0}, "perturbation_batch_size is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


# The random views.

VIEWS, HEIGHT, WIDTH = 128, 9, 17


def _ramps_and_noise() -> jax.Array:
    """Three channels: ones, the column's number, noise."""
    images = np.ones((VIEWS, HEIGHT, WIDTH, 3), np.float32)
    images[..., 1] = np.arange(WIDTH)
    images[..., 2] = np.random.default_rng(0).uniform(size=images.shape[:3])
    return jnp.asarray(images)


def _bilinear(image: np.ndarray, row: float, column: float) -> float:
    """One value between the pixels, as one says it: four neighbors, 0 outside."""
    total = 0.0
    for r in (int(np.floor(row)), int(np.floor(row)) + 1):
        for c in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= r < image.shape[0] and 0 <= c < image.shape[1]:
                total += (1 - abs(row - r)) * (1 - abs(column - c)) * image[r, c]
    return total


def _shifts(shift: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Finds what was drawn, (rows, columns, mirrored), from the views of ramps."""
    ramps = np.zeros((VIEWS, HEIGHT, WIDTH, 2), np.float32)
    ramps[..., 0] = np.arange(HEIGHT)[:, None]
    ramps[..., 1] = np.arange(WIDTH)
    seen = np.asarray(
        shift_and_flip(jax.random.key(seed), jnp.asarray(ramps), shift=shift)
    )
    middle = seen[:, HEIGHT // 2, WIDTH // 2]
    step = seen[:, HEIGHT // 2, WIDTH // 2 + 1, 1] - middle[:, 1]
    return middle[:, 0] - HEIGHT // 2, middle[:, 1] - WIDTH // 2, step < 0


def test_a_view_is_the_image_read_between_its_pixels():
    seen = np.asarray(shift_and_flip(jax.random.key(0), _ramps_and_noise(), shift=0.5))
    images = np.asarray(_ramps_and_noise())
    rows, columns, mirrored = _shifts(0.5)
    assert len(set(mirrored[:12])) == 2
    for i in range(12):
        for h in range(HEIGHT):
            for w in range(WIDTH):
                away = (WIDTH // 2 - w) if mirrored[i] else (w - WIDTH // 2)
                row, column = h + rows[i], WIDTH // 2 + columns[i] + away
                want = [_bilinear(images[i, :, :, c], row, column) for c in range(3)]
                np.testing.assert_allclose(seen[i, h, w], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [0.25, 0.5])
def test_shifts_are_uniform_in_the_ramps_and_noise_coordinates_and_independent(shift):
    rows, columns, mirrored = _shifts(shift)
    assert 0.35 < mirrored.mean() < 0.65
    for drawn, length in ((rows, HEIGHT), (columns, WIDTH)):
        drawn = drawn / (shift * (length - 1) / 2)
        assert np.abs(drawn).max() <= 1 + 1e-4
        assert drawn.max() > 0.9
        assert drawn.min() < -0.9
        assert drawn.std() == pytest.approx(1 / np.sqrt(3), rel=0.15)
    drawn = np.stack([rows, columns, mirrored])
    assert np.abs(np.corrcoef(drawn)[np.triu_indices(3, 1)]).max() < 0.3
    other, _, _ = _shifts(shift, seed=1)
    assert not np.allclose(rows, other)


def test_the_published_shift_is_four_of_thirty_two_pixels():
    ramp = np.broadcast_to(np.arange(32.0)[:, None, None], (512, 32, 32, 1))
    seen = shift_and_flip(jax.random.key(0), jnp.float32(ramp), shift=8 / 31)
    drawn = np.asarray(seen)[:, 16, 16, 0] - 16
    assert 3.9 < np.abs(drawn).max() <= 4 + 1e-4


def test_without_a_shift_ramps_and_noise_are_as_they_are_or_mirrored():
    images = _ramps_and_noise()
    seen = np.asarray(shift_and_flip(jax.random.key(3), images, shift=0.0))
    kept = (np.abs(seen - images) < 1e-6).all((1, 2, 3))
    turned = (np.abs(seen - images[:, :, ::-1]) < 1e-6).all((1, 2, 3))
    assert (kept ^ turned).all()
    assert 0.35 < kept.mean() < 0.65


def test_gradients_reach_exactly_the_pixels_that_are_seen():
    images = _ramps_and_noise()
    key = jax.random.key(0)
    gradient = jax.grad(lambda x: shift_and_flip(key, x, shift=0.5).sum())(images)
    rows, _, _ = _shifts(0.5)
    # Of a view shifted down by s pixels the first s rows of the image are not seen.
    unseen = rows >= 1
    assert unseen.sum() > 10
    np.testing.assert_array_equal(gradient[unseen, 0], 0)
    assert (np.abs(gradient[:, HEIGHT // 2, WIDTH // 2]) > 0.9).all()
