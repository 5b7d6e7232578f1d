"""The victim: schedules, protocols, one step, accuracy, and its independence of D."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from miue_jax import defenses, models
from miue_jax.train import classifier, loop, parallel, sampling
from miue_jax.train import metrics as means
from miue_jax.victims import presets, training

CONFIG = presets.VictimConfig(
    model="mlp2", width=16, epochs=3, batch_size=16, learning_rate=0.1
)


def _separable(size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Three classes told apart by the brightest channel."""
    rng = np.random.default_rng(0)
    labels = np.arange(size, dtype=np.int32) % 3
    images = rng.integers(0, 100, (size, 8, 8, 3))
    images[np.arange(size), :, :, labels] += 100
    return images.astype(np.uint8), labels


def _train(config, *, num_shards=8, devices=None, defense=defenses.NONE, steps=None):
    images, labels = _separable()
    mesh = parallel.data_mesh(devices)
    victim = training.victim(
        config,
        num_examples=len(labels),
        num_classes=3,
        num_shards=num_shards,
        axis_name=parallel.AXIS,
        defense=defense,
    )
    dealt = sampling.deal(images, labels, num_shards)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(victim.init, mesh)(key, data)
    stop = victim.num_steps if steps is None else steps
    state, metrics = loop.advance(victim.step, mesh)(key, state, data, stop)
    accuracy = loop.evaluation(victim.evaluate, mesh)(state, data)
    return state, means.values(metrics), means.values(accuracy)["accuracy"]


def test_a_victim_learns_separable_classes():
    config = dataclasses.replace(CONFIG, epochs=10)
    state, metrics, accuracy = _train(config)
    assert accuracy > 0.95
    assert metrics["loss"] < 1.0
    assert int(state.step) == 10 * 6


def test_eight_devices_give_the_numbers_of_one():
    eight = _train(CONFIG, steps=5)
    one = _train(CONFIG, steps=5, devices=jax.devices()[:1])
    leaves = zip(
        jax.tree.leaves(parallel.to_host(eight[0].shared)),
        jax.tree.leaves(parallel.to_host(one[0].shared)),
        strict=True,
    )
    for a, b in leaves:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert eight[1]["loss"] == pytest.approx(one[1]["loss"], rel=1e-4)


def test_accuracy_counts_every_example_once():
    images, labels = _separable(37)
    module = models.create("linear", num_classes=3)
    dealt = sampling.deal(images, labels, 4)
    kernel = np.zeros((8, 8, 3, 3), np.float32)
    kernel[:, :, range(3), range(3)] = 1.0  # the brightest channel wins
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False
    )
    leaves, tree = jax.tree.flatten(shapes["params"])
    flat = [
        kernel.reshape(leaf.shape) if leaf.ndim == 2 else np.zeros(leaf.shape)
        for leaf in leaves
    ]
    variables = {"params": jax.tree.unflatten(tree, flat)}
    found = classifier.accuracy_of(module, variables, dealt, rows_at_once=3)
    assert float(found.weight) == 37
    assert float(found.total) == 37
    wrong = dealt._replace(labels=(dealt.labels + 1) % 3)
    found = classifier.accuracy_of(module, variables, wrong, rows_at_once=3)
    assert float(found.total) == 0


def test_a_network_that_has_diverged_has_no_accuracy():
    images, labels = _separable(10)
    dealt = sampling.deal(images, labels, 2)
    module = models.create("mlp2", num_classes=3, width=4)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, variables)
    found = classifier.accuracy_of(module, broken, dealt, rows_at_once=3)
    assert np.isnan(found.total)


def test_cosine_changes_once_an_epoch_and_ends_near_its_end():
    schedule = classifier.epochwise_cosine(0.5, 1e-6, 4, steps_per_epoch=10)
    rates = np.asarray([schedule(step) for step in range(40)])
    assert len(set(rates.tolist())) == 4
    np.testing.assert_allclose(
        rates[::10], 0.25 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-4
    )


def test_sgd_is_the_textbook_rule():
    optimizer = classifier.sgd(0.1, momentum=0.9, weight_decay=0.01)
    weights, buffer = np.array([1.0, -2.0]), np.zeros(2)
    params = jnp.asarray(weights)
    state = optimizer.init(params)
    for gradient in ([0.5, 1.0], [-0.3, 0.2]):
        buffer = 0.9 * buffer + np.array(gradient) + 0.01 * weights
        weights = weights - 0.1 * buffer
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, weights, rtol=1e-6)


def test_clipping_limits_the_whole_gradient():
    optimizer = classifier.sgd(1.0, momentum=0.0, clip_norm=5.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([40.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [-3.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-4.0], rtol=1e-6)


def test_defenses_take_part_in_every_step():
    def blacken(key, images, labels):
        del key
        return jnp.zeros_like(images), jax.nn.one_hot(labels, 3)

    _, seeing, _ = _train(CONFIG)
    _, blinded, _ = _train(CONFIG, defense=defenses.Defense(augment=blacken))
    assert blinded["accuracy"] < 0.45 < 0.6 < seeing["accuracy"]

    def nothing(keys, progress, forward, images, labels):
        del labels
        assert keys.shape == images.shape[:1]
        assert progress.shape == ()
        logits, state = forward(images)
        return 0 * logits.sum(), (logits, state)

    _, metrics, _ = _train(CONFIG, defense=defenses.Defense(loss=nothing), steps=2)
    assert metrics["loss"] == 0.0


def test_soft_labels_agree_with_hard_ones():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    labels = jnp.array([0, 2, 1, 1, 0])
    hard = classifier.cross_entropy(logits, labels)
    soft = classifier.cross_entropy(logits, jax.nn.one_hot(labels, 3))
    assert float(hard) == pytest.approx(float(soft), rel=1e-6)
