"""PIL: its closed-form gradient, its classifier, and what the noise does to both."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import DataSpec
from miue_jax.generators.perturbation_linear import (
    PRESETS,
    PerturbationLinearConfig,
    noise_gradient,
    noise_loss,
    perturbation_linear,
)
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means

SIZE, CLASSES, BATCH = 60, 4, 16
SPEC = DataSpec(num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 3))
SMALL = dataclasses.replace(PRESETS["published"], epochs=4, batch_size=BATCH)


def _data():
    rng = np.random.default_rng(0)
    labels = (np.arange(SIZE) % CLASSES).astype(np.int32)
    prototypes = rng.integers(60, 196, (CLASSES, 8, 8, 3))
    images = prototypes[labels] + rng.integers(-60, 60, (SIZE, 8, 8, 3))
    return images.astype(np.uint8), labels


@functools.cache
def _compile(config, num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    spec = dataclasses.replace(SPEC, num_shards=8, axis_name=parallel.AXIS)
    generator = perturbation_linear(config, spec)
    advance = loop.advance(generator.step, mesh)
    return generator, mesh, loop.start(generator.init, mesh), advance


def _run(config=SMALL, *, num_devices=1, stops=(), seed=0):
    images, labels = _data()
    generator, mesh, start, advance = _compile(config, num_devices)
    data = sampling.deal(images, labels, 8)
    data = parallel.place(data, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state = start(key, data)
    metrics = {}
    for stop in stops or (generator.num_steps,):
        state, metrics = advance(key, state, data, stop)
    delta = sampling.collect(parallel.to_host(generator.perturbation(state)), SIZE)
    return delta, means.values(metrics), state


def _logits(state, values):
    weights = parallel.to_host(state.shared.weights)
    return functools.reduce(np.matmul, weights, values.reshape(len(values), -1))


def _problem(seed=0):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(0, 1, (12, 5)).astype(np.float32)
    noise = rng.uniform(-0.5, 0.5, (6, 12)).astype(np.float32)
    images = rng.uniform(0, 1, (6, 12)).astype(np.float32)
    labels = np.asarray([0, 1, 2, 3, 4, 4], np.int32)
    return matrix, noise, images, labels


def test_the_loss_is_that_of_its_definition():
    matrix, noise, images, labels = _problem()
    found = noise_loss(
        *map(jnp.asarray, (matrix, noise, images, labels)), noise_weight=0.3
    )
    for i, label in enumerate(labels):
        p, q = (np.exp(v @ matrix) for v in (noise[i], images[i] - noise[i]))
        p, q = p / p.sum(), q / q.sum()
        want = -0.3 * np.log(p[label]) + 0.7 * np.sum(0.2 * np.log(0.2 / q))
        assert found[i] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("noise_weight", [0.0, 0.3, 0.9, 1.0])
def test_the_closed_form_is_the_gradient_of_the_loss(noise_weight):
    matrix, noise, images, labels = map(jnp.asarray, _problem())
    loss = functools.partial(noise_loss, noise_weight=noise_weight)
    total = lambda n: jnp.sum(loss(matrix, n, images, labels))  # noqa: E731
    want = jax.grad(total)(noise)
    found = noise_gradient(matrix, noise, images, labels, noise_weight=noise_weight)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
    assert np.abs(want).max() > 0.01


@pytest.mark.parametrize("depth", [1, 3])
def test_training_is_sgd_on_clean_images_in_the_order_of_the_data(depth):
    config = dataclasses.replace(SMALL, depth=depth, epochs=2, learning_rate=0.01)
    images, labels = _data()
    _, _, first = _run(config, stops=(0,))
    weights = [np.float64(w) for w in parallel.to_host(first.shared.weights)]
    assert [w.shape for w in weights] == [(192, 4), (4, 4), (4, 4)][:depth]
    for w in weights:
        assert 0.8 < np.abs(w).max() * np.sqrt(len(w)) <= 1

    # Shards of 8 and 7 rows give two rows each to a batch, and start again at the end.
    counts = [8, 8, 8, 8, 7, 7, 7, 7]
    batches = [
        [g + 8 * ((2 * i + j) % counts[g]) for g in range(8) for j in range(2)]
        for i in range(4)
    ]
    momenta = [np.zeros_like(w) for w in weights]
    for epoch in range(2):
        rate = 0.01 * (1 + np.cos(np.pi * epoch / 2)) / 2
        for batch in batches:
            inputs = [images[batch].reshape(BATCH, -1) / 255]
            for w in weights:
                inputs.append(inputs[-1] @ w)
            error = np.exp(inputs[-1])
            error = error / error.sum(1, keepdims=True) - np.eye(CLASSES)[labels[batch]]
            error /= BATCH
            grads = []
            for w, x in zip(weights[::-1], inputs[-2::-1], strict=True):
                grads.append(x.T @ error)
                error = error @ w.T
            momenta = [0.9 * m + g for m, g in zip(momenta, grads[::-1], strict=True)]
            weights = [w - rate * m for w, m in zip(weights, momenta, strict=True)]
    _, metrics, last = _run(config, stops=(8,))
    for found, want in zip(parallel.to_host(last.shared.weights), weights, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-5)
    assert set(metrics) == {"surrogate_loss", "surrogate_accuracy"}


def test_the_classifier_stays_as_it_is_while_the_noise_is_made():
    _, _, trained = _run(stops=(4 * 4,))
    _, _, done = _run()
    for a, b in zip(trained.shared.weights, done.shared.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_perturbation_is_minus_a_noise_that_says_the_label():
    config = dataclasses.replace(SMALL, epochs=20, learning_rate=0.01)
    delta, metrics, state = _run(config)
    images, labels = _data()
    clean = images / np.float32(255)
    assert np.abs(delta).max() <= 8 / 255 + 1e-6
    assert (clean + delta).min() >= -1e-6
    assert (clean + delta).max() <= 1 + 1e-6
    # What was drawn uniformly has been driven to the ends of the ball.
    assert np.mean(np.abs(delta) * 255 > 7.99) > 0.4
    assert np.mean(_logits(state, -delta).argmax(1) == labels) > 0.95
    assert np.mean(_logits(state, delta).argmin(1) == labels) > 0.95
    assert np.isfinite(metrics["perturbation_loss"])


def test_each_half_of_the_loss_does_its_part():
    settings = {"epochs": 20, "learning_rate": 0.01}
    _, labels = _data()
    clean = _data()[0] / np.float32(255)
    reads, flatness = {}, {}
    for weight in (0.0, 1.0):
        config = dataclasses.replace(SMALL, noise_weight=weight, **settings)
        delta, _, state = _run(config)
        reads[weight] = np.mean(_logits(state, -delta)[np.arange(SIZE), labels])
        flatness[weight] = np.ptp(_logits(state, clean + delta), axis=1).mean()
    assert reads[1.0] > reads[0.0]
    assert flatness[0.0] < flatness[1.0]


def test_noise_goes_on_from_uniform_noise_in_steps_of_the_step_size():
    def moved(steps, step_size):
        config = dataclasses.replace(SMALL, pgd_steps=steps, step_size=step_size)
        return _run(config)[0] * 255

    start = moved(1, 1e-4)
    inside = _data()[0].astype(int)
    inside = (inside >= 16) & (inside <= 239)
    noise = start[inside] / 8
    assert noise.max() > 0.99
    assert noise.min() < -0.99
    assert abs(noise.mean()) < 4 / np.sqrt(3 * noise.size)
    assert noise.std() == pytest.approx(1 / np.sqrt(3), rel=0.05)
    change = np.abs(moved(3, 0.5) - start)[inside & (np.abs(start) < 6)]
    # Three steps of one sign, or two of them that take back each other.
    assert np.mean(np.abs(change - 1.5) < 0.01) > 0.5
    assert change.max() < 1.51


def test_an_image_met_twice_in_the_last_batch_keeps_its_noise():
    # Of 60 images in batches of 16 the first of some shards come again at the end.
    _, _, once = _run(stops=(4 * 4 + 3,))
    _, _, twice = _run(stops=(4 * 4 + 4,))
    before, after = (np.asarray(s.per_example) for s in (once, twice))
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert (np.abs(before[:, 6:]).max((2, 3, 4)) == 0).all()
    assert (np.abs(after[:4, 6:]).max((2, 3, 4)) > 0).all()


def test_devices_seeds_and_cuts():
    config = dataclasses.replace(SMALL, learning_rate=0.1)
    one, _, state = _run(config)
    cut, _, _ = _run(config, stops=(1, 15, 18, 20))
    np.testing.assert_array_equal(one, cut)
    eight, _, same = _run(config, num_devices=8)
    assert np.mean(np.abs(one - eight) > 1e-6) < 0.02
    for a, b in zip(state.shared.weights, same.shared.weights, strict=True):
        np.testing.assert_allclose(parallel.to_host(a), parallel.to_host(b), atol=1e-4)
    other, _, _ = _run(config, seed=1)
    assert not np.array_equal(one, other)


def test_states_are_float32_with_x64_enabled():
    with jax.enable_x64(True):
        images, labels = _data()
        data = sampling.deal(images, labels, 1)
        generator = perturbation_linear(SMALL, SPEC)
        state = jax.eval_shape(generator.init, jax.random.key(0), data)
        after, metrics = jax.eval_shape(generator.step, jax.random.key(0), state, data)
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, (state, after))
        assert dtypes[0] == dtypes[1]
        kept = jax.tree.leaves((after, metrics))
        assert not [leaf for leaf in kept if leaf.dtype == jnp.float64]


def test_the_preset_states_the_published_settings():
    config = PRESETS["published"]
    assert (config.depth, config.epochs, config.batch_size) == (2, 30, 512)
    assert (config.learning_rate, config.momentum) == (0.003, 0.9)
    assert (config.pgd_steps, config.step_size, config.radius) == (30, 0.8, 8.0)
    assert config.noise_weight == 0.9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("radius", 7.5),
        ("radius", 0),
        ("step_size", 0),
        ("pgd_steps", 0),
        ("noise_weight", 1.1),
        ("noise_weight", -0.1),
        ("depth", 0),
        ("depth", 2.0),
        ("epochs", 0),
        ("batch_size", 16.0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
    ],
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}; .*llowed: "):
        PerturbationLinearConfig(**{field: value})


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="a batch of 512 images"):
        perturbation_linear(PRESETS["published"], SPEC)
