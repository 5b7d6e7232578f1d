"""REM and SEM: a step against its definition, the last visit, and the settings."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from miue_jax import models
from miue_jax.budget import Budget
from miue_jax.generators import DataSpec
from miue_jax.generators import robust_error_minimizing as rem
from miue_jax.generators.adversarial_views import adversarial_views
from miue_jax.generators.robust_error_minimizing import PRESETS
from miue_jax.train import classifier, loop, parallel, sampling
from miue_jax.train import metrics as means

SIZE, CLASSES, BATCH = 64, 4, 24
# 64 images in batches of 24: of the third, 8 images had their turn before.
PER_PASS = 3

SMALL: dict[str, Any] = {
    "model": "mlp2",
    "width": 16,
    "batch_size": BATCH,
    "iterations": 4,
    "pgd_steps": 2,
    "adversarial_steps": 2,
    "transformations": 2,
    "crop": 1,
    "learning_rate_drop": 1e-6,
    "learning_rate_drop_every": 2,
}
REM = dataclasses.replace(PRESETS["rem"], **SMALL)
SEM = dataclasses.replace(REM, adversarial_steps=0)
EM = dataclasses.replace(
    REM, adversarial_radius=0, transformations=1, crop=0, mirror=False
)
each_preset = pytest.mark.parametrize(
    "config", [REM, SEM, EM], ids=["rem", "sem", "em"]
)


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (np.arange(SIZE) % CLASSES).astype(np.int32)
    return rng.integers(0, 256, (SIZE, 8, 8, 3)).astype(np.uint8), labels


def _build(config, num_shards=1, axis_name: str | None = parallel.AXIS):
    spec = DataSpec(
        num_examples=SIZE,
        num_classes=CLASSES,
        image_shape=(8, 8, 3),
        num_shards=num_shards,
        axis_name=axis_name,
    )
    return rem.robust_error_minimizing(config, spec)


@functools.cache
def _compile(config, num_shards: int, num_devices: int):
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    generator = _build(config, num_shards)
    start = loop.start(generator.init, mesh)
    return mesh, start, loop.advance(generator.step, mesh)


def _states(config, stops, *, num_shards=1, num_devices=1, selected=None, seed=0):
    """Runs up to each stop; gives the states there, on the host, and the metrics."""
    mesh, start, advance = _compile(config, num_shards, num_devices)
    dealt = sampling.deal(*_data(), num_shards, selected=selected)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state = start(key, data)
    states: list[Any] = []
    metrics = {}
    for stop in stops:
        state, metrics = advance(key, state, data, stop)
        # A copy: the next call uses the state up.
        states.append(jax.tree.map(np.array, parallel.to_host(state)))
    return states, means.values(metrics)


def _delta(config, stops=None, **options):
    num_shards = options.get("num_shards", 1)
    stops = stops or (_build(config, num_shards).num_steps,)
    states, _ = _states(config, stops, **options)
    delta = np.asarray(_build(config, num_shards).perturbation(states[-1]))
    return sampling.collect(delta, SIZE)


def _written_out(config, module, key, data, state, rows):
    """The first step: gray levels (b, H, W, C), the learner after it, both losses."""
    images = jnp.asarray(data.images[0])[rows].astype(jnp.float32) / 255
    labels = jnp.asarray(data.labels[0])[rows]
    selected = jnp.asarray(data.selected[0])[rows]
    variables = state.shared.variables
    radius, length = config.radius / 255, config.step_size / 255

    def loss_fn(images, labels):
        logits = module.apply(variables, images, train=False)[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()

    def views(key, images, count, **changes):
        settings: dict[str, Any] = {
            "radius": config.adversarial_radius / 255,
            "step_size": config.adversarial_step_size / 255,
            "num_steps": config.adversarial_steps,
            **changes,
        }
        return adversarial_views(
            key,
            data.shard,
            images[None],
            labels[None],
            loss_fn,
            views=count,
            crop=config.crop,
            mirror=config.mirror,
            **settings,
        )

    def stream(use):
        return jax.random.fold_in(jax.random.fold_in(key, use), 0)

    start_key = jax.random.fold_in(stream(rem._START), 0)
    noise = jax.random.uniform(start_key, images.shape, minval=-radius, maxval=radius)
    perturbed = jnp.clip(images + noise, 0, 1)
    losses = []
    for step_key in jax.random.split(stream(rem._DEFENSE), config.pgd_steps):
        attacked, repeated = views(step_key, perturbed, config.transformations)
        total, gradient = jax.value_and_grad(loss_fn)(attacked, repeated)
        losses.append(total / len(repeated))
        _, pull_back = jax.vjp(
            lambda x, k=step_key: views(k, x, config.transformations, radius=0)[0],
            perturbed,
        )
        moved = perturbed - images - length * jnp.sign(pull_back(gradient)[0])
        perturbed = jnp.clip(images + jnp.clip(moved, -radius, radius), 0, 1)
    levels = jnp.round(255 * (perturbed - images))
    levels = jnp.where(selected[:, None, None, None], levels, 0)

    published = jnp.clip(images + levels / 255, 0, 1)
    attacked, _ = views(stream(rem._TRAIN), published, 1)
    optimizer = classifier.sgd(
        config.learning_rate, momentum=config.momentum, weight_decay=5e-4
    )
    learner, loss, _ = classifier.train_step(
        state.shared, module, optimizer, attacked, labels
    )
    return levels, learner, loss, losses[-1]


def _check_first_step(config):
    selected = np.arange(SIZE) % 5 > 0
    (after,), metrics = _states(config, (1,), selected=selected)
    data = sampling.deal(*_data(), 1, selected=selected)
    key = jax.random.key(0)
    before = jax.jit(_build(config, axis_name=None).init)(key, data)
    module = models.create(config.model, num_classes=CLASSES, width=config.width)
    rows = after.per_example.order[0, :BATCH]
    written_out = jax.jit(functools.partial(_written_out, config, module))
    levels, learner, loss, defended = written_out(key, data, before, rows)
    stored = after.per_example.levels[0]
    # Where a gradient is 0 up to rounding its sign, and a whole step, may differ.
    differing = stored[rows] != levels
    assert differing.mean() < 0.02, f"{differing.mean():.1%} of the values differ"
    others = np.setdiff1d(np.arange(SIZE), rows)
    assert not stored[others].any()
    assert (np.abs(stored[rows]).max((1, 2, 3)) > 0).tolist() == list(selected[rows])
    assert metrics["perturbation_loss"] == pytest.approx(float(defended), rel=1e-3)
    assert metrics["surrogate_loss"] == pytest.approx(float(loss), rel=1e-2)
    for found, want, old in zip(
        jax.tree.leaves(after.shared.variables),
        jax.tree.leaves(learner.variables),
        jax.tree.leaves(before.shared.variables),
        strict=True,
    ):
        moved = np.abs(np.asarray(want - old)).max()
        assert moved > 0
        np.testing.assert_allclose(found, want, atol=0.05 * moved)


@each_preset
def test_a_step_is_its_definition(config):
    _check_first_step(config)


class _Normalized(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool):
        x = images.reshape(len(images), -1)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return x, nn.Dense(CLASSES, name="head")(x)


def test_a_step_attacks_with_running_statistics_and_trains_with_the_batchs(
    monkeypatch,
):
    monkeypatch.setattr(models, "create", lambda *_, **__: _Normalized())
    # Of another width, so that what is compiled with it is no other test's.
    _check_first_step(dataclasses.replace(SEM, width=1))


@each_preset
def test_the_result_is_in_whole_gray_levels_within_the_budget(config):
    delta = _delta(config)
    assert delta.shape == (SIZE, 8, 8, 3)
    assert delta.dtype == np.float32
    levels = 255 * delta
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert np.abs(levels).max() == pytest.approx(8)
    images = _data()[0] + np.round(levels)
    assert images.min() >= 0
    assert images.max() <= 255
    assert (np.abs(delta).max((1, 2, 3)) > 0).all()


def test_sem_is_rem_whose_adversary_stands_still():
    still = dataclasses.replace(REM, adversarial_step_size=1e-6)
    sem = _delta(SEM)
    assert (_delta(still) != sem).mean() < 0.02
    assert (_delta(REM) != sem).mean() > 0.02


def test_the_last_visit_makes_every_perturbation_once_with_the_final_surrogate():
    last = REM.iterations + PER_PASS
    assert _build(REM).num_steps == last
    states, metrics = _states(REM, range(REM.iterations, last + 1))
    assert set(metrics) == {"perturbation_loss"}
    visited = []
    for before, after in itertools.pairwise(states):
        changed = before.per_example.levels != after.per_example.levels
        visited += [*np.flatnonzero(changed.any((0, 2, 3, 4)))]
        for old, new in zip(
            jax.tree.leaves(before.shared), jax.tree.leaves(after.shared), strict=True
        ):
            np.testing.assert_array_equal(old, new)
    assert sorted(visited) == list(range(SIZE))


def test_training_shuffles_anew_in_each_pass_and_for_the_last_visit():
    states, _ = _states(REM, (1, PER_PASS, PER_PASS + 1, REM.iterations + 1))
    first, same, second, visit = (state.per_example.order for state in states)
    np.testing.assert_array_equal(first, same)
    assert (first != second).any()
    assert (second != visit).any()
    assert (first != visit).any()


def test_the_learning_rate_drops():
    states, _ = _states(REM, (1, 2, 3, 4))
    heads = [s.shared.variables["params"]["head"]["kernel"] for s in states]
    second, third, fourth = (np.abs(b - a).max() for a, b in itertools.pairwise(heads))
    assert second > 1e-4
    assert max(third, fourth) < 1e-5


@each_preset
def test_only_selected_images_change(config):
    selected = np.arange(SIZE) % 3 == 0
    changed = np.abs(_delta(config, selected=selected)).max((1, 2, 3)) > 0
    np.testing.assert_array_equal(changed, selected)


def test_cutting_a_run_changes_no_bit_and_seeds_matter():
    whole = _delta(REM)
    np.testing.assert_array_equal(whole, _delta(REM, stops=(1, 3, 5, 7)))
    assert (whole != _delta(REM, seed=1)).mean() > 0.5


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one():
    config = dataclasses.replace(REM, iterations=1)
    two, one = (_delta(config, num_shards=2, num_devices=n) for n in (2, 1))
    differing = (two != one).mean()
    assert differing < 0.02, f"{differing:.1%} of the values differ"


def test_states_are_float32_with_x64_enabled():
    with jax.enable_x64(True):
        data = sampling.deal(*_data(), 1)
        generator = _build(REM, axis_name=None)
        state = jax.eval_shape(generator.init, jax.random.key(0), data)
        after, metrics = jax.eval_shape(generator.step, jax.random.key(0), state, data)
        assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(
            lambda x: x.dtype, state
        )
        delta = jax.eval_shape(generator.perturbation, state)
        kept = jax.tree.leaves((after, metrics, delta))
        assert not [leaf for leaf in kept if leaf.dtype == jnp.float64]


def test_presets_state_the_published_settings():
    config = PRESETS["rem"]
    assert next(iter(PRESETS)) == "rem"
    assert (config.radius, config.step_size, config.pgd_steps) == (8, 1.6, 10)
    assert config.adversarial_radius == 4
    assert (config.adversarial_step_size, config.adversarial_steps) == (0.8, 10)
    assert (config.transformations, config.crop, config.iterations) == (5, 4, 5000)
    assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
    assert (config.learning_rate_drop, config.learning_rate_drop_every) == (0.1, 2000)
    assert (config.batch_size, config.model) == (128, "resnet18")
    assert PRESETS["sem"] == dataclasses.replace(config, adversarial_steps=0)
    assert dataclasses.replace(PRESETS["em"], **SMALL) == dataclasses.replace(
        EM, transformations=2, crop=1
    )
    assert _build(REM).budget == Budget("linf", 8.0)


NAN, INF = float("nan"), float("inf")
BAD_NUMBERS: dict[str, tuple[Any, ...]] = {
    "radius": (0, 7.5, 256, NAN),
    "step_size": (0, -1.0, INF),
    "pgd_steps": (0, 1.5),
    "transformations": (0, 2.0),
    "crop": (-1, 1.5),
    "adversarial_radius": (-1, NAN, 256),
    "adversarial_step_size": (0, NAN),
    "adversarial_steps": (-1, 1.0),
    "iterations": (0, 10.0),
    "learning_rate_drop": (0, 1.5),
    "learning_rate_drop_every": (0, 2.5),
    "batch_size": (0,),
}


@pytest.mark.parametrize("field", BAD_NUMBERS)
def test_numbers_that_make_no_sense_are_refused(field):
    for value in BAD_NUMBERS[field]:
        with pytest.raises(ValueError, match=f"^{field} is {value!r}; .*llowed: "):
            dataclasses.replace(REM, **{field: value})


def test_what_does_not_fit_the_data_is_refused():
    with pytest.raises(ValueError, match="crop is 8 pixels, the images have 8x8"):
        _build(dataclasses.replace(REM, crop=8))
    gray = DataSpec(num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="is for three channels"):
        rem.robust_error_minimizing(
            dataclasses.replace(REM, normalization="cifar10"), gray
        )
    with pytest.raises(ValueError, match="a batch of 128 images"):
        _build(dataclasses.replace(REM, batch_size=128))
    with pytest.raises(ValueError, match="24 images does not split over 7 shards"):
        _build(REM, num_shards=7)
