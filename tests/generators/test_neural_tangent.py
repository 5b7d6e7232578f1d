"""NTGA: its steps by hand, its blocks and judges, and what they do to the loss."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import DataSpec, tangent_kernel
from miue_jax.generators.neural_tangent import (
    PRESETS,
    NeuralTangentConfig,
    neural_tangent,
    validation_loss,
)
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means

SIZE, CLASSES, BLOCK, JUDGES = 60, 3, 16, 24
SPEC = DataSpec(num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 3))
SMALL = {"block_size": BLOCK, "validation_size": JUDGES, "rows_at_once": 8}
CNN = dataclasses.replace(PRESETS["cnn"], **SMALL)
FNN = dataclasses.replace(PRESETS["fnn"], **SMALL)
# Steps so large that the second gradient tells which images the first has moved.
TWICE = dataclasses.replace(FNN, radius=100.0, step_size=60.0, pgd_steps=2)
VARIANCES = {"weight_variance": 1.76, "bias_variance": 0.18}


def _data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SIZE).astype(np.int32)
    prototypes = rng.integers(60, 196, (CLASSES, 8, 8, 3))
    images = prototypes[labels] + rng.integers(-60, 60, (SIZE, 8, 8, 3))
    images[0] = images[1]
    images[2] = 0
    images[3] = 255
    return images.astype(np.uint8), labels


@functools.cache
def _compile(config, num_shards, num_devices):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    spec = dataclasses.replace(SPEC, num_shards=num_shards, axis_name=parallel.AXIS)
    generator = neural_tangent(config, spec)
    advance = loop.advance(generator.step, mesh)
    return generator, mesh, loop.start(generator.init, mesh), advance


def _run(config, *, shards=1, devices=1, stops=(), seed=0, selected=None):
    images, labels = _data()
    generator, mesh, start, advance = _compile(config, shards, devices)
    data = sampling.deal(images, labels, shards, selected=selected)
    data = parallel.place(data, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state = start(key, data)
    metrics = {}
    for stop in stops or (generator.num_steps,):
        state, metrics = advance(key, state, data, stop)
    delta = sampling.collect(parallel.to_host(generator.perturbation(state)), SIZE)
    return delta, means.values(metrics), state


def _kernel(config):
    if config.network == "fnn":
        return tangent_kernel.fully_connected(**VARIANCES)
    return tangent_kernel.convolutional((8, 8, 3), **VARIANCES)


@functools.cache
def _loss_and_gradient(config):
    def loss(block, targets, images, labels):
        kernel = _kernel(config)
        return validation_loss(kernel, block, targets, images, labels, config)

    return jax.jit(jax.value_and_grad(loss))


def _by_hand(config, order, step, selected):
    """A block's rows, its perturbation and the losses before each step."""
    images, labels = _data()
    images = images / np.float32(255)
    order = np.roll(order, -step * BLOCK)
    rows, judges = order[:BLOCK], order[BLOCK : BLOCK + JUDGES]
    targets = np.eye(CLASSES, dtype=np.float32)[labels[rows]]
    clean, losses = images[rows], []
    delta = np.zeros_like(clean)
    for _ in range(config.pgd_steps):
        loss, gradient = _loss_and_gradient(config)(
            clean + delta, targets, images[judges], labels[judges]
        )
        losses.append(float(loss))
        delta = delta + config.step_size / 255 * np.sign(gradient)
        delta = np.clip(delta, -config.radius / 255, config.radius / 255)
        delta = np.clip(clean + delta, 0, 1) - clean
        delta = delta * selected[rows][:, None, None, None]
    return rows, delta, losses


def test_the_loss_is_that_of_the_trained_network():
    config = dataclasses.replace(FNN, time=20.0, regularization=0.3)
    images, labels = _data()
    images = images / np.float32(255)
    block, judges, answers = images[10:26], images[30:54], labels[30:54]
    targets = np.eye(CLASSES, dtype=np.float32)[labels[10:26]]
    loss, _ = _loss_and_gradient(config)(block, targets, judges, answers)
    kernel = _kernel(config)
    own, across = (
        np.float64(kernel.compare(kernel.patches(x), kernel.patches(block)))
        for x in (block, judges)
    )
    values, vectors = np.linalg.eigh(own + 0.3 * np.trace(own) / 16 * np.eye(16))
    learned = -np.expm1(-20 * values / (16 * CLASSES)) / values
    logits = across @ vectors @ (learned[:, None] * (vectors.T @ targets))
    chosen = logits[np.arange(24), answers]
    want = np.mean(np.log(np.exp(logits).sum(1)) - chosen)
    assert float(loss) == pytest.approx(want, rel=1e-4)
    assert want < 0.95 * np.log(CLASSES)  # the network has learned something


@pytest.mark.parametrize("config", [FNN, CNN], ids=["fnn", "cnn"])
def test_the_gradient_is_that_of_finite_differences(config):
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        block, judges = rng.uniform(0.2, 0.8, (2, 6, 8, 8, 3))
        targets = np.eye(CLASSES)[np.arange(6) % CLASSES]
        labels = np.arange(6, dtype=np.int32) % CLASSES
        config = dataclasses.replace(config, rows_at_once=6)
        evaluate = _loss_and_gradient(config)
        _, gradient = evaluate(block, targets, judges, labels)
        direction = np.sign(gradient) * rng.uniform(0, 1, block.shape)
        ends = [
            evaluate(block + h * direction, targets, judges, labels)[0]
            for h in (-1e-3, 1e-3)
        ]
        gradient, ends = np.asarray(gradient), np.asarray(ends)
    want = (ends[1] - ends[0]) / 2e-3
    assert abs(want) > 0.01
    assert np.sum(gradient * direction) == pytest.approx(want, rel=1e-2)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CNN, id="cnn", marks=pytest.mark.slow),
        pytest.param(TWICE, id="fnn_two_steps"),
    ],
)
def test_a_block_is_moved_against_the_images_that_follow_it(config):
    selected = np.arange(SIZE) % 2 == 0
    delta, metrics, state = _run(config, stops=(1,), selected=selected)
    order = np.asarray(state.per_example[1])[0]
    assert sorted(order) == list(range(SIZE))
    rows, want, losses = _by_hand(config, order, 0, selected)
    # Of those that may not change the perturbation does not count.
    differing = np.abs(delta[rows] - want)[selected[rows]] > 1e-6
    assert differing.mean() < 0.01, f"{differing.mean():.1%} of the values differ"
    assert metrics["validation_loss"] == pytest.approx(losses[0], rel=1e-4)
    others = np.setdiff1d(np.arange(SIZE), rows)
    assert np.abs(delta[others]).max() == 0


def test_the_published_step_goes_to_the_radius_and_raises_the_loss():
    delta, _, state = _run(FNN)
    images, labels = _data()
    clean = images / np.float32(255)
    assert np.abs(delta).max() <= 8 / 255 + 1e-6
    assert (clean + delta).min() >= -1e-6
    assert (clean + delta).max() <= 1 + 1e-6
    reach = np.clip(clean + np.sign(delta) * 8 / 255, 0, 1) - clean
    assert np.mean(np.abs(delta - reach) < 1e-6) > 0.99
    assert (np.abs(delta).max((1, 2, 3)) > 0).all(), "an image was never visited"
    order = np.asarray(state.per_example[1])[0]
    for step in range(3):
        turned = np.roll(order, -step * BLOCK)
        rows, judges = turned[:BLOCK], turned[BLOCK : BLOCK + JUDGES]
        targets = np.eye(CLASSES, dtype=np.float32)[labels[rows]]
        before, after = (
            _loss_and_gradient(FNN)(x, targets, clean[judges], labels[judges])[0]
            for x in (clean[rows], clean[rows] + delta[rows])
        )
        assert after > before + 0.02, f"block {step}: {before} to {after}"


def test_the_last_block_leaves_those_that_fill_it_up_as_they_were():
    before, _, _ = _run(FNN, stops=(3,))
    after, _, state = _run(FNN)
    order = np.asarray(state.per_example[1])[0]
    np.testing.assert_array_equal(before[order[:48]], after[order[:48]])
    assert np.abs(before[order[48:]]).max() == 0
    assert (np.abs(after[order[48:]]).max((1, 2, 3)) > 0).all()


@pytest.mark.slow
def test_shards_share_the_blocks_and_devices_the_work():
    # Shards of 8 and 7 rows give two of them to each block.
    one, metrics, _ = _run(FNN, shards=8)
    eight, same, _ = _run(FNN, shards=8, devices=8)
    assert (np.abs(one).max((1, 2, 3)) > 0).all(), "an image was never visited"
    assert np.mean(np.abs(one - eight) > 1e-6) < 0.02
    assert metrics["validation_loss"] == pytest.approx(same["validation_loss"], 1e-4)
    cut, _, _ = _run(FNN, shards=8, devices=8, stops=(1, 3, 4))
    np.testing.assert_array_equal(eight, cut)
    other, _, _ = _run(FNN, shards=8, seed=1)
    assert np.mean(np.abs(one - other) > 1e-6) > 0.02


@pytest.mark.parametrize("config", [FNN, CNN], ids=["fnn", "cnn"])
def test_states_are_float32_with_x64_enabled(config):
    with jax.enable_x64(True):
        data = sampling.deal(*_data(), 1)
        generator = neural_tangent(config, SPEC)
        state = jax.eval_shape(generator.init, jax.random.key(0), data)
        after, metrics = jax.eval_shape(generator.step, jax.random.key(0), state, data)
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, (state, after))
        assert dtypes[0] == dtypes[1]
        kept = jax.tree.leaves((after, metrics))
        assert not [leaf for leaf in kept if leaf.dtype == jnp.float64]


def test_the_presets_state_the_published_settings():
    for name, network in (("cnn", "cnn"), ("fnn", "fnn"), ("pgd", "cnn")):
        config = PRESETS[name]
        assert config.network == network
        assert (config.time, config.regularization) == (64.0, 1e-4)
        assert (config.block_size, config.validation_size) == (512, 10_000)
        assert (config.weight_variance, config.bias_variance) == (1.76, 0.18)
        assert config.radius == 8.0
    assert (PRESETS["cnn"].pgd_steps, PRESETS["cnn"].step_size) == (1, 8.0)
    assert (PRESETS["pgd"].pgd_steps, PRESETS["pgd"].step_size) == (10, 0.88)
    assert next(iter(PRESETS)) == "cnn"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("radius", 7.5),
        ("step_size", 0),
        ("pgd_steps", 0),
        ("network", "mlp"),
        ("weight_variance", 0.0),
        ("bias_variance", 0.0),
        ("time", -1.0),
        ("regularization", -1e-4),
        ("block_size", 16.0),
        ("validation_size", 0),
        ("rows_at_once", 0),
    ],
)
def test_bad_settings_are_refused(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}; .*llowed: "):
        NeuralTangentConfig(**{field: value})


@pytest.mark.parametrize(
    ("changes", "shards", "message"),
    [
        (
            {"block_size": 512},
            1,
            "512 images .* set block_size to at most 60",
        ),
        (
            {"block_size": 18},
            4,
            "18 images does not split .* set block_size",
        ),
        ({"validation_size": 18}, 4, "validation_size is 18; .* the 4 shards"),
        (
            {"validation_size": 45},
            1,
            "validation_size 45 take more images .* the 60 that",
        ),
    ],
)
def test_blocks_that_do_not_fit_the_data_are_refused(changes, shards, message):
    with pytest.raises(ValueError, match=message):
        neural_tangent(
            dataclasses.replace(CNN, **changes),
            dataclasses.replace(SPEC, num_shards=shards),
        )
