"""Adversarial training: the attack against a linear network, and a victim's run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.adversarial_training import adversarial_training
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means
from miue_jax.train.classifier import cross_entropy
from miue_jax.victims import presets, training

SHAPE = (4, 4, 3)
# Clear of 0 and 1, so that the box cuts nothing off.
IMAGES = jax.random.uniform(jax.random.key(0), (64, *SHAPE), minval=0.3, maxval=0.7)
LABELS = jnp.arange(64, dtype=jnp.int32) % 2
KEYS = jax.random.split(jax.random.key(1), 64)
WEIGHTS = jax.random.normal(jax.random.key(2), (48, 2))
# The loss of class y rises along sign(w_other - w_y), everywhere.
UPHILL = jnp.sign((WEIGHTS[:, 1 - LABELS] - WEIGHTS[:, LABELS]).T).reshape(IMAGES.shape)

PROTOCOLS = {
    # steps, step in gray levels at radius 8, start, uphill of which mode
    "em": (10, 8 * 0.007 / 0.031, "gaussian", False),
    "apbench": (10, 2.0, "gaussian", False),
    "rem": (10, 1.6, "uniform", False),
    "miue": (10, 2.0, "uniform", False),
    "dune": (7, 2.0, "uniform", False),
    "pil": (7, 2.0, "none", True),
    "hypo": (10, 2.0, "uniform", False),
}


def _network(weights=WEIGHTS, eval_sign=1):
    """A linear network whose state is what it saw, and in which mode."""

    def forward(images, *, train=True):
        logits = images.reshape(len(images), -1) @ weights
        return (logits if train else eval_sign * logits), (images, train)

    return forward


def _attacked(*, images=IMAGES, labels=LABELS, keys=KEYS, eval_sign=1, **settings):
    defense = adversarial_training(SHAPE, 2, **{"radius": 8, **settings})
    value, (logits, (attacked, train)) = defense.loss(
        keys, jnp.zeros(()), _network(eval_sign=eval_sign), images, labels
    )
    assert train, "the pass that counts is not in training mode"
    return value, logits, attacked


def _delta(**settings):
    return 255 * (_attacked(**settings)[2] - IMAGES)


def test_a_linear_network_is_attacked_to_the_corner_of_the_ball():
    value, logits, attacked = _attacked()
    np.testing.assert_allclose(255 * (attacked - IMAGES), 8 * UPHILL, atol=1e-3)
    np.testing.assert_allclose(logits, _network()(attacked)[0], rtol=1e-5)
    clean = cross_entropy(_network()(IMAGES)[0], LABELS)
    assert float(value) > float(clean)


def test_the_loss_is_taken_in_training_mode():
    value, _, attacked = _attacked(eval_sign=-1)
    expected = cross_entropy(_network()(attacked)[0], LABELS)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_images_stay_in_the_ball_and_in_the_box():
    images = jax.random.uniform(jax.random.key(3), IMAGES.shape)
    attacked = _attacked(images=images, radius=40)[2]
    assert float(jnp.max(jnp.abs(attacked - images))) <= 40 / 255 + 1e-6
    assert float(jnp.min(attacked)) >= -1e-6
    assert float(jnp.max(attacked)) <= 1 + 1e-6
    assert float(jnp.max(attacked)) > 0.999, "no image was near enough to the border"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_protocols_are_those_of_the_publications(protocol):
    steps, step_size, start, train = PROTOCOLS[protocol]
    # The network in evaluation mode answers the opposite, and shows who asks it.
    uphill = UPHILL if train else -UPHILL
    options = {"protocol": protocol, "eval_sign": -1}

    settings = {
        "one": {"num_steps": 1},
        "two": {"num_steps": 2},
        "first": {"num_steps": 1, "step_size": 0.01},
        "last": {"step_size": 0.01},
        # Steps that vanish leave the start; a Gaussian one scales with them.
        "still": {"num_steps": 1, "step_size": 1e-3},
        "wide": {"num_steps": 1, "step_size": 1.0},
    }
    deltas = jax.jit(
        lambda: {name: _delta(**options, **own) for name, own in settings.items()}
    )()
    along = {name: np.asarray(delta * uphill) for name, delta in deltas.items()}
    longest = np.max(along["two"] - along["one"])
    assert longest == pytest.approx(step_size, rel=1e-4), "length of a step"
    moved = np.max(along["last"] - along["first"])
    assert moved == pytest.approx((steps - 1) * 0.01, rel=1e-2), "number of steps"
    if start == "uniform":
        assert 7.9 < np.max(np.abs(along["still"])) < 8.001
        assert np.std(along["still"]) == pytest.approx(8 / 3**0.5, rel=0.05)
    else:
        spread = 1.0 if start == "gaussian" else 0.0
        assert np.max(np.abs(along["still"])) < 0.01
        assert np.mean(along["wide"]) == pytest.approx(1.0, abs=0.1)
        assert np.std(along["wide"]) == pytest.approx(spread, abs=0.05)


def test_starts_in_bfloat16_are_those_of_float32():
    """jax 0.12.0.1 draws 128 biased numbers in it (findings/jax_narrow_normal.sh)."""
    images = jnp.full_like(IMAGES, 0.5, jnp.bfloat16)
    options = {"images": images, "radius": 100, "num_steps": 1}
    uniform = _attacked(protocol="miue", step_size=1e-3, **options)[2]
    assert uniform.dtype == jnp.bfloat16
    assert len(np.unique(np.asarray(uniform))) > 200, "128 numbers were drawn"
    gaussian = _attacked(protocol="apbench", step_size=20, **options)[2]
    start = 255 * (gaussian.astype(jnp.float32) - 0.5) - 20 * UPHILL
    assert np.max(np.asarray(start)) > 2.6 * 20, "the upper tail is cut off"


def test_only_the_authors_step_ignores_the_radius():
    expected = {"miue": 2.0, "rem": 0.8, "hypo": 1.0}
    for protocol, step_size in expected.items():
        options = {"radius": 4, "protocol": protocol}
        one, two = jax.jit(
            lambda: [_delta(num_steps=count, **options) for count in (1, 2)]  # noqa: B023
        )()
        assert np.max(np.abs(two - one)) == pytest.approx(step_size, rel=1e-4)


def test_an_image_is_attacked_alone():
    whole = _attacked(num_steps=1, step_size=0.5)[2]
    part = _attacked(
        images=IMAGES[5:9],
        labels=LABELS[5:9],
        keys=KEYS[5:9],
        num_steps=1,
        step_size=0.5,
    )[2]
    np.testing.assert_allclose(part, whole[5:9], atol=1e-6)


def test_class_probabilities_attack_like_labels():
    hard = _attacked()
    soft = _attacked(labels=jax.nn.one_hot(LABELS, 2))
    np.testing.assert_allclose(soft[2], hard[2], atol=1e-6)
    assert float(soft[0]) == pytest.approx(float(hard[0]), rel=1e-5)


def test_the_gradient_is_that_at_the_attacked_images():
    defense = adversarial_training(SHAPE, 2, radius=8)

    def loss(weights):
        return defense.loss(KEYS, jnp.zeros(()), _network(weights), IMAGES, LABELS)

    gradient, (_, (attacked, _)) = jax.jit(jax.grad(loss, has_aux=True))(WEIGHTS)
    expected = jax.grad(
        lambda weights: cross_entropy(_network(weights)(attacked)[0], LABELS)
    )(WEIGHTS)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_the_attack_on_the_trained_victim():
    def predict(images):
        return _network()(images)[0]

    def delta(**settings):
        defense = adversarial_training(SHAPE, 2, radius=8, **settings)
        return 255 * (defense.attack(KEYS, predict, IMAGES, LABELS) - IMAGES)

    np.testing.assert_allclose(delta(), 8 * UPHILL, atol=1e-3)
    # Whatever the training is like: quarters of the radius from a uniform start.
    settings = {"protocol": "pil", "step_size": 0.1, "num_steps": 1}
    one, two = (np.asarray(delta(eval_steps=n, **settings)) for n in (1, 2))
    assert np.max(np.abs(two - one)) == pytest.approx(2.0, rel=1e-4)
    backwards = np.mean(one * np.asarray(UPHILL) < -3)
    assert backwards > 0.05, "the start is not uniform"


def _thin_margin(size=96):
    """Three classes told apart by one channel, by little more than an attack moves."""
    rng = np.random.default_rng(0)
    labels = np.arange(size, dtype=np.int32) % 3
    images = rng.integers(0, 100, (size, 8, 8, 3))
    images[np.arange(size), :, :, labels] += 40
    return images.astype(np.uint8), labels


def _train(devices, *, steps):
    """A victim after some steps, and the functions that evaluate it."""
    images, labels = _thin_margin()
    mesh = parallel.data_mesh(devices)
    victim = training.victim(
        presets.VictimConfig(
            model="mlp2", width=16, epochs=10, batch_size=16, learning_rate=0.1
        ),
        num_examples=len(labels),
        num_classes=3,
        num_shards=8,
        axis_name=parallel.AXIS,
        defense=adversarial_training((8, 8, 3), 3, radius=16, num_steps=2),
    )
    data = parallel.place(sampling.deal(images, labels, 8), mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(victim.init, mesh)(key, data)
    state, metrics = loop.advance(victim.step, mesh)(key, state, data, steps)

    def accuracy(evaluate):
        return means.values(loop.evaluation(evaluate, mesh)(state, data))["accuracy"]

    return (
        parallel.to_host(state.shared),
        means.values(metrics),
        lambda: (accuracy(victim.evaluate), accuracy(victim.evaluate_robust)),
    )


def test_a_victim_is_less_accurate_under_attack():
    _, _, evaluate = _train(jax.devices()[:1], steps=60)
    clean, robust = evaluate()
    assert clean > 0.8
    assert robust < clean - 0.1


def test_eight_devices_give_the_numbers_of_one():
    eight, metrics_of_eight, _ = _train(jax.devices(), steps=3)
    one, metrics, _ = _train(jax.devices()[:1], steps=3)
    assert metrics_of_eight["loss"] == pytest.approx(metrics["loss"], rel=1e-3)
    for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0}, "radius is 0; allowed: finite numbers > 0"),
        ({"radius": -8}, "radius is -8"),
        ({"radius": 256}, "radius is 256; allowed: up to 255 gray levels"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"radius": 8, "protocol": "mi_ue"}, "'mi_ue'; did you mean 'miue'"),
        ({"radius": 8, "step_size": 0}, "step_size is 0"),
        ({"radius": 8, "num_steps": 0}, "num_steps is 0"),
        ({"radius": 8, "num_steps": 2.0}, r"num_steps is 2\.0"),
        ({"radius": 8, "eval_steps": 0}, "eval_steps is 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        adversarial_training(SHAPE, 2, **settings)
