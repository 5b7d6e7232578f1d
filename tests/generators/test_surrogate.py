"""The training that comes before an attack: its schedule, its order, what it sees."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators import DataSpec, surrogate
from miue_jax.generators.adversarial_poisoning import PRESETS as AP
from miue_jax.generators.hypocritical import PRESETS as HYPO
from miue_jax.generators.self_ensemble import PRESETS as SEP
from miue_jax.generators.surrogate import SurrogateTrainingConfig
from miue_jax.train import metrics as means
from miue_jax.train import sampling

SIZE, CLASSES, BATCH = 40, 4, 8
SPEC = DataSpec(
    num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 3), num_shards=2
)
CONFIG = SurrogateTrainingConfig(model="mlp2", width=16, batch_size=BATCH, epochs=2)


def _data() -> sampling.Shards:
    rng = np.random.default_rng(0)
    labels = np.arange(SIZE) % CLASSES
    # Classes differ in brightness, which crops and flips leave.
    images = rng.integers(0, 60, (SIZE, 8, 8, 3)) + 60 * labels[:, None, None, None]
    return sampling.deal(images.astype(np.uint8), labels, 2)


def _trainer(config=CONFIG, attack=None):
    module = surrogate.create(config, SPEC, crop=surrogate.PADDING)
    trainer = surrogate.trainer(config, module, SPEC, attack=attack)
    return trainer, jax.jit(trainer.step)


def _train(config=CONFIG, *, steps, attack=None):
    data, key = _data(), jax.random.key(0)
    trainer, step = _trainer(config, attack)
    learner, order = trainer.init(key, data), jnp.zeros((2, 20), jnp.int32)
    losses, orders = [], []
    for count in range(steps):
        learner, order, metrics = step(key, jnp.int32(count), learner, order, data)
        losses.append(means.values(metrics)["surrogate_loss"])
        orders.append(np.asarray(order))
    return learner, losses, orders


def test_the_surrogate_learns_and_sees_each_image_once_an_epoch():
    config = dataclasses.replace(CONFIG, learning_rate=0.02)
    _, losses, orders = _train(config, steps=40)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    for epoch in range(2):
        for order in orders[5 * epoch : 5 * epoch + 5]:
            np.testing.assert_array_equal(order, orders[5 * epoch])
            np.testing.assert_array_equal(np.sort(order, 1), [np.arange(20)] * 2)
    assert (orders[0] != orders[5]).any()
    assert (orders[0][0] != orders[0][1]).any()


def test_momentum_is_nesterovs_where_it_is_said():
    # Of the first step Nesterov's momentum takes 1 + 0.9 gradients, the other one.
    start, _, _ = _train(steps=0)
    moved = {}
    for nesterov in (False, True):
        learner, _, _ = _train(dataclasses.replace(CONFIG, nesterov=nesterov), steps=1)
        moved[nesterov] = jax.tree.map(
            jnp.subtract, learner.variables["params"], start.variables["params"]
        )
    plain, ours = (jax.tree.leaves(moved[nesterov]) for nesterov in (False, True))
    for a, b in zip(plain, ours, strict=True):
        assert np.abs(a).max() > 0
        np.testing.assert_allclose(b, 1.9 * a, rtol=2e-3, atol=1e-5)


def test_weights_decay():
    learners = [
        _train(dataclasses.replace(CONFIG, weight_decay=decay), steps=1)[0]
        for decay in (0.0, 1.0)
    ]
    kernels = [one.variables["params"]["head"]["kernel"] for one in learners]
    start = _train(steps=0)[0].variables["params"]["head"]["kernel"]
    np.testing.assert_allclose(
        kernels[1] - kernels[0], -0.1 * start, rtol=1e-2, atol=1e-5
    )


def test_an_attack_gets_its_batch_and_its_answer_is_trained_on():
    seen = {}

    def attack(keys, predict, images, labels):
        # Called while tracing: shapes are all there is to see.
        seen.update(keys=keys.shape, labels=labels.shape, logits=predict(images).shape)
        return images * 0

    learner, _, _ = _train(steps=1, attack=attack)
    assert seen == {"keys": (8,), "labels": (8,), "logits": (8, CLASSES)}
    start, _, _ = _train(steps=0)
    kernel = learner.variables["params"]["dense1"]["kernel"]
    before = start.variables["params"]["dense1"]["kernel"]
    # Nothing comes in where images are black, so only the decay moves these weights.
    np.testing.assert_allclose(kernel, before * (1 - 0.1 * 5e-4), rtol=1e-5)
    plain, _, _ = _train(steps=1)
    assert np.abs(plain.variables["params"]["dense1"]["kernel"] - before).max() > 1e-3


def test_keys_of_an_attack_are_one_an_image_and_new_in_every_step():
    draws = []

    def attack(keys, predict, images, labels):
        del predict, labels
        draw = jax.vmap(jax.random.uniform)(keys)
        jax.debug.callback(lambda value: draws.append(np.asarray(value)), draw)
        return images

    _train(steps=3, attack=attack)
    jax.effects_barrier()
    assert len(np.unique(np.concatenate(draws))) == 24


def _rates(config: SurrogateTrainingConfig, epoch_steps: int) -> np.ndarray:
    schedule = surrogate.learning_rate(config, epoch_steps)
    counts = np.arange(config.epochs * epoch_steps)
    return np.array([np.asarray(schedule(count)) for count in counts])


def test_the_published_drops_come_after_their_epochs():
    rates = _rates(AP["targeted"], 2)
    drops = np.flatnonzero(np.diff(rates)) + 1
    np.testing.assert_array_equal(drops, [28, 48, 70])  # epochs 14, 24, 35
    np.testing.assert_allclose(rates[[0, 28, 48, 70]], [0.1, 0.01, 1e-3, 1e-4])
    rates = _rates(SEP["sep"], 10)
    drops = np.flatnonzero(np.diff(rates) < 0) + 1
    np.testing.assert_array_equal(drops, [750, 900])
    climb = 0.1 * (0.01 + 0.099 * np.arange(11))
    np.testing.assert_allclose(rates[:11], climb, rtol=1e-5)
    np.testing.assert_allclose(_rates(HYPO["hypocritical"], 3), 0.1)


def test_a_short_training_drops_at_the_same_shares():
    config = dataclasses.replace(AP["targeted"], epochs=2)
    rates = _rates(config, 100)
    np.testing.assert_array_equal(np.flatnonzero(np.diff(rates)) + 1, [70, 120, 175])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1"),
        ({"milestones": 0.5}, r"milestones is 0\.5; allowed: a tuple of shares"),
        ({"milestones": (0.5, 75)}, "milestones is 75"),
        ({"milestones": (float("nan"),)}, "milestones is nan"),
        ({"momentum": 1.0}, r"momentum is 1\.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_list_of_milestones_is_the_tuple():
    shares: Any = [0.5]
    config = dataclasses.replace(CONFIG, milestones=shares)
    assert config == dataclasses.replace(CONFIG, milestones=(0.5,))
    hash(config)


def test_data_that_fill_no_batch_or_lack_channels_are_refused():
    with pytest.raises(ValueError, match="a batch of 64 images"):
        _trainer(dataclasses.replace(CONFIG, batch_size=64))
    gray = dataclasses.replace(SPEC, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="is for three channels"):
        surrogate.create(dataclasses.replace(CONFIG, normalization="cifar10"), gray)
    small = dataclasses.replace(SPEC, image_shape=(4, 8, 3))
    with pytest.raises(ValueError, match="crop is 4 pixels, the images have 4x8"):
        surrogate.create(CONFIG, small, crop=surrogate.PADDING)
