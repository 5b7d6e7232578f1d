"""UEraser: which augmentation it trains on, when, and through which pass."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.defenses.ueraser import ueraser
from miue_jax.image import jpeg
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means
from miue_jax.train.classifier import cross_entropy
from miue_jax.victims import presets, training

SHAPE = (4, 4, 3)
COUNT = 256
KEYS = jax.random.split(jax.random.key(0), COUNT)
IMAGES = jnp.zeros((COUNT, *SHAPE))
LABELS = jnp.zeros(COUNT, jnp.int32)
WEIGHT = jnp.ones(())


def _network(weight, eval_sign=1):
    """Class 0 is less likely the brighter an image is; the state is what was seen."""

    def forward(images, *, train=True):
        mean = jnp.mean(images, (1, 2, 3))
        score = weight * mean * (1 if train else eval_sign)
        return jnp.stack([-score, score], -1), (images, jnp.asarray(train))

    return forward


def _run(*, images=IMAGES, labels=LABELS, progress=0.0, eval_sign=1, **settings):
    defense = ueraser(SHAPE, 2, **settings)

    def loss(weight):
        network = _network(weight, eval_sign)
        return defense.loss(KEYS, jnp.float32(progress), network, images, labels)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, (_, (seen, train))), gradient = run(WEIGHT)
    assert train, "the pass that counts is not in training mode"
    return float(value), float(gradient), np.asarray(seen)


@pytest.fixture
def brightening(monkeypatch):
    """In place of the augmentations: a uniform brightness of every image."""
    module = importlib.import_module("miue_jax.defenses.ueraser")

    def brighten(keys, images):
        added = jax.vmap(lambda key: jax.random.uniform(key))(keys)
        return images + added[:, None, None, None]

    monkeypatch.setattr(module, "trivial_augment", brighten)
    monkeypatch.setattr(module, "_cloud_and_shuffle", lambda key, image, _: image)


def _brightness(**settings):
    return _run(**settings)[2][:, 0, 0, 0]


def test_the_worst_of_k_is_trained_on(brightening):
    one = _brightness(variant="lite")
    best = [_brightness(variant="max", repeats=k) for k in (2, 5)]
    # Means of the largest of k uniform numbers.
    for found, k in ((one, 1), (best[0], 2), (best[1], 5)):
        assert found.mean() == pytest.approx(k / (k + 1), abs=0.06), f"{k} repeats"
    assert np.all(best[0] >= one - 1e-6)
    assert np.all(best[1] >= best[0] - 1e-6)


def test_the_worst_is_chosen_in_training_mode(brightening):
    upside_down = _brightness(variant="max", eval_sign=-1)
    np.testing.assert_array_equal(upside_down, _brightness(variant="max"))


def test_loss_and_gradient_are_those_of_the_pass_that_counts(brightening):
    value, gradient, seen = _run(variant="max")

    def expected(weight):
        return cross_entropy(_network(weight)(seen)[0], LABELS)

    assert value == pytest.approx(float(expected(WEIGHT)), rel=1e-5)
    assert gradient == pytest.approx(float(jax.grad(expected)(WEIGHT)), rel=1e-4)


@pytest.mark.parametrize(("variant", "end"), [("standard", 0.25), ("readme", 0.3)])
def test_competition_ends_after_a_share_of_the_training(brightening, variant, end):
    before = _brightness(variant=variant, progress=end - 0.01)
    np.testing.assert_array_equal(before, _brightness(variant="max"))
    after = _brightness(variant=variant, progress=end)
    np.testing.assert_array_equal(after, _brightness(variant="lite"))


def test_max_never_ends(brightening):
    late = _brightness(variant="max", progress=0.999)
    np.testing.assert_array_equal(late, _brightness(variant="max"))


def test_class_probabilities_are_labels_too(brightening):
    hard = _run(variant="max")
    soft = _run(variant="max", labels=jax.nn.one_hot(LABELS, 2))
    assert soft[:2] == pytest.approx(hard[:2], rel=1e-5)
    np.testing.assert_array_equal(soft[2], hard[2])


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_clouds_and_shuffles_happen_as_often_as_asked(probability, monkeypatch):
    module = importlib.import_module("miue_jax.defenses.ueraser")
    monkeypatch.setattr(module, "trivial_augment", lambda keys, images: images)
    colors = jnp.array([0.0, 0.5, 1.0])
    marked = {
        "plasma_brightness": lambda key, image, rough, strength: image + 10,
        "plasma_contrast": lambda key, image, rough: image + 100,
    }
    for name, mark in marked.items():
        monkeypatch.setattr(module, name, mark)
    images = jnp.broadcast_to(colors, IMAGES.shape)
    seen = _run(images=images, variant="lite", probability=probability)[2]
    pixels = seen[:, 0, 0]
    added = np.round(pixels.mean(-1) - 0.5)
    shuffled = np.any(pixels - added[:, None] != np.asarray(colors), -1)
    shares = {
        "brightness": np.mean(added % 100 == 10),
        "contrast": np.mean(added >= 100),
        # One permutation in six changes nothing.
        "shuffle": np.mean(shuffled) * 6 / 5,
    }
    for name, share in shares.items():
        assert share == pytest.approx(probability, abs=0.12), name
    if probability == 0.5:
        both = np.mean(added == 110)
        assert both == pytest.approx(0.25, abs=0.1), "the parts are not independent"


@pytest.mark.parametrize("compression", ["after", "before"])
def test_compression_is_where_it_is_asked_for(compression, monkeypatch):
    module = importlib.import_module("miue_jax.defenses.ueraser")
    monkeypatch.setattr(module, "_cloud_and_shuffle", lambda key, image, _: image)
    # Whatever was no whole number of gray levels before it would be afterwards.
    monkeypatch.setattr(module, "trivial_augment", lambda keys, images: 0.9 * images)
    images = jax.random.uniform(jax.random.key(1), IMAGES.shape)
    seen = jnp.asarray(_run(images=images, variant="lite", compression=compression)[2])
    if compression == "after":
        expected = jpeg.jpeg(0.9 * images, quality=10)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        return
    qualities = range(10, 100)
    each = jax.jit(lambda quality: 0.9 * jpeg.jpeg(images, quality=quality))
    away = [jnp.abs(each(q) - seen).max((1, 2, 3)) for q in qualities]
    nearest = np.stack(away)
    assert nearest.min(0).max() < 1e-6, "an image is of no quality from 10 to 99"
    drawn = 10 + nearest.argmin(0)
    assert drawn.mean() == pytest.approx(54.5, abs=6), "the qualities are not uniform"
    assert len(np.unique(drawn)) > 60, "images share their quality"


def test_images_stay_images_and_are_changed_alone():
    defense = ueraser(SHAPE, 2, variant="lite")

    @jax.jit
    def augmented(images):
        network = _network(WEIGHT)
        _, (_, (seen, _)) = defense.loss(KEYS, 0.0, network, images, LABELS)
        return seen

    images = jax.random.uniform(jax.random.key(1), IMAGES.shape)
    seen = np.asarray(augmented(images))
    assert seen.min() >= 0
    assert seen.max() <= 1
    changed = np.any(np.abs(seen - images) > 1e-3, axis=(1, 2, 3))
    assert changed.mean() > 0.95
    np.testing.assert_array_equal(augmented(images.at[1:].set(0.5))[0], seen[0])


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    rng = np.random.default_rng(0)
    labels = np.arange(48, dtype=np.int32) % 3
    images = rng.integers(0, 256, (48, 8, 8, 3)).astype(np.uint8)
    victim = training.victim(
        presets.VictimConfig(
            model="mlp2", width=16, epochs=2, batch_size=16, learning_rate=0.1
        ),
        num_examples=len(labels),
        num_classes=3,
        num_shards=8,
        axis_name=parallel.AXIS,
        defense=ueraser((8, 8, 3), 3, repeats=2),
    )
    found = []
    for devices in (jax.devices(), jax.devices()[:1]):
        mesh = parallel.data_mesh(devices)
        dealt = sampling.deal(images, labels, 8)
        data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
        key = jax.random.key(0)
        state = loop.start(victim.init, mesh)(key, data)
        # The first two of six steps compete, the others do not.
        state, metrics = loop.advance(victim.step, mesh)(key, state, data, 4)
        shared = parallel.to_host(state.shared)
        found.append((jax.tree.leaves(shared), means.values(metrics)["loss"]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)
    for a, b in zip(found[0][0], found[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (SHAPE, {"variant": "fast"}, "unknown variant of UEraser 'fast'"),
        (SHAPE, {"compression": "jpeg"}, "compression is 'jpeg'; allowed: none, "),
        (SHAPE, {"repeats": 1}, "repeats is 1; allowed: whole numbers >= 2"),
        (SHAPE, {"repeats": 2.5}, r"repeats is 2\.5"),
        (SHAPE, {"probability": 1.1}, r"probability is 1\.1"),
        ((2, 4, 3), {}, r"at least 3x3 pixels .* got \(H, W, C\) = \(2, 4, 3\)"),
        ((4, 4, 4), {}, r"1 or 3 channels, got \(H, W, C\) = \(4, 4, 4\)"),
    ],
)
def test_impossible_settings_are_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        ueraser(shape, 2, **settings)
