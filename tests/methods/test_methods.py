"""One table of generators, the same contract for all, and what each one promises."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from miue_jax import methods, parallel, runner, sampling
from miue_jax import metrics as means

SIZE, CLASSES, BATCH = 64, 4, 16

_SMALL = {
    "model": "mlp2",
    "width": 32,
    "epochs": 2,
    "batch_size": BATCH,
    "pgd_steps": 2,
}


def _small(method: str, preset: str, **changes):
    config = methods.preset(method, preset)
    if hasattr(config, "model"):
        changes = {**_SMALL, "perturbation_batch_size": 32, **changes}
        if config.batches_per_epoch is not None:
            changes.setdefault("batches_per_epoch", 3)
    return method, dataclasses.replace(config, **changes)


CASES = {
    "mi_ue/paper": _small("mi_ue", "paper"),
    "mi_ue/authors_code": _small("mi_ue", "authors_code"),
    "mi_ue/interleaved": _small("mi_ue", "interleaved"),
    "mi_ue/class": _small("mi_ue", "interleaved", perturbation="class"),
    "mi_ue/bfloat16": _small("mi_ue", "interleaved", dtype="bfloat16"),
    "mi_ue/every_second": _small("mi_ue", "paper", perturb_every=2, flip="none"),
    "em/published": _small("error_minimizing", "published"),
    "em/plain": _small("error_minimizing", "plain"),
    "em/interleaved": _small("error_minimizing", "interleaved"),
    "em/class": _small("error_minimizing", "plain", perturbation="class"),
    "random_noise": _small("random_noise", "uniform"),
    "random_noise/class": _small("random_noise", "uniform", perturbation="class"),
}
each_method = pytest.mark.parametrize("case", list(CASES))


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (np.arange(SIZE) % CLASSES).astype(np.int32)
    images = rng.integers(0, 256, (SIZE, 8, 8, 3)).astype(np.uint8)
    return images, labels


class _Compiled(NamedTuple):
    method: methods.Method
    mesh: Mesh
    start: runner.Start
    advance: runner.Advance


@functools.cache
def _compile(name: str, config: Any, num_devices: int = 8) -> _Compiled:
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    method = methods.create(
        name,
        config,
        num_examples=SIZE,
        num_classes=CLASSES,
        num_shards=8,
        axis_name=parallel.AXIS,
    )
    start = runner.start(method.init, mesh)
    return _Compiled(method, mesh, start, runner.advance(method.step, mesh))


def _run(name, config, *, num_devices=8, selected=None, stops=(), seed=0):
    """Runs a generator in calls that end at `stops`, by default at its last step."""
    images, labels = _data()
    method, mesh, start, advance = _compile(name, config, num_devices)
    dealt = sampling.deal(images, labels, 8, selected=selected)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state = start(key, data)
    metrics = {}
    for stop in stops or (method.num_steps,):
        state, metrics = advance(key, state, data, stop)
    chosen = np.ones(SIZE, bool) if selected is None else selected
    delta = np.asarray(parallel.to_host(method.perturbation(state)))
    delta = methods.per_example(method, delta, labels, chosen)
    return delta, means.values(metrics), state


@each_method
def test_perturbations_fill_the_budget_and_respect_it(case):
    name, config = CASES[case]
    delta, metrics, state = _run(name, config)
    assert delta.shape == (SIZE, 8, 8, 3)
    assert delta.dtype == np.float32
    assert np.abs(delta).max() <= config.radius / 255 + 1e-6
    changed = np.abs(delta).max((1, 2, 3)) > 0
    assert changed.all(), f"{(~changed).sum()} images were never visited"
    assert all(np.isfinite(value) for value in metrics.values())
    assert int(state.step) > 0
    if config.perturbation == "class":
        labels = np.arange(SIZE) % CLASSES
        for label in range(CLASSES):
            assert np.ptp(delta[labels == label], axis=0).max() == 0
    else:
        assert not np.allclose(delta[0], delta[CLASSES])


@each_method
def test_cutting_a_run_changes_no_bit(case):
    name, config = CASES[case]
    whole, _, _ = _run(name, config)
    last = _compile(name, config).method.num_steps
    cut, _, _ = _run(name, config, stops=(1, min(4, last), last))
    np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize(
    ("case", "first_visits"),
    [("mi_ue/paper", 6), ("mi_ue/interleaved", 4), ("mi_ue/class", 4), ("em/plain", 6)],
)
def test_eight_devices_give_the_numbers_of_one(case, first_visits):
    name, config = CASES[case]
    eight, _, _ = _run(name, config, stops=(first_visits,))
    one, _, _ = _run(name, config, stops=(first_visits,), num_devices=1)
    assert np.abs(eight).max() > 0
    # Where a gradient is 0 up to rounding its sign, and a whole step, may differ.
    differing = np.abs(eight - one) > 1e-6
    assert differing.mean() < 0.02, f"{differing.mean():.1%} of the values differ"


@each_method
def test_a_seed_is_repeatable_and_matters(case):
    name, config = CASES[case]
    first, _, _ = _run(name, config, seed=1)
    again, _, _ = _run(name, config, seed=1)
    other, _, _ = _run(name, config, seed=2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("case", ["mi_ue/paper", "mi_ue/class", "random_noise"])
def test_only_selected_images_change(case):
    name, config = CASES[case]
    labels = np.arange(SIZE) % CLASSES
    selected = methods.select(labels, fraction=0.5, classes=(1, 3), seed=4)
    assert selected.sum() == 16
    assert set(labels[selected]) == {1, 3}
    delta, _, _ = _run(name, config, selected=selected)
    changed = np.abs(delta).max((1, 2, 3)) > 0
    np.testing.assert_array_equal(changed, selected)


def test_selection_is_seeded_and_checked():
    labels = np.arange(40) % 4
    a, b = (methods.select(labels, fraction=0.25, seed=s) for s in (0, 1))
    assert a.sum() == b.sum() == 10
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, methods.select(labels, fraction=0.25, seed=0))
    for arguments, message in (
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"classes": (7,)}, "class 7 to protect is not in the data"),
        ({"fraction": 0.001}, "leaves none to protect"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.select(labels, **arguments)


@pytest.mark.parametrize("case", ["mi_ue/interleaved", "em/interleaved"])
def test_the_objective_falls_on_a_surrogate_that_stands_still(case):
    name, config = CASES[case]
    still = dataclasses.replace(
        config,
        epochs=6,
        learning_rate=1e-9,
        learning_rate_end=1e-9,
        flip="none",
        crop=0,  # one view, so that what differs is the perturbation
    )
    batches = SIZE // BATCH
    _, first, _ = _run(name, still, stops=(batches,))
    _, last, _ = _run(name, still, stops=(5 * batches, 6 * batches))
    assert last["perturbation_loss"] < 0.95 * first["perturbation_loss"]


def test_em_stops_at_its_error_and_then_rests():
    name, config = _small("error_minimizing", "published", stop_error=1.0, epochs=5)
    whole, _, state = _run(name, config)
    assert bool(state.shared.finished)
    # Three batches of training and two visits make the only round.
    assert int(state.step) == 5
    early, _, _ = _run(
        name, dataclasses.replace(config, epochs=1, learning_rate_end=0.1)
    )
    np.testing.assert_array_equal(whole, early)


def test_em_goes_on_while_its_error_is_high():
    name, config = _small("error_minimizing", "published", stop_error=0.0, epochs=2)
    config = dataclasses.replace(config, step_size=1e-4, step_size_end=1e-4)
    _, _, state = _run(name, config)
    assert not bool(state.shared.finished)
    assert int(state.step) == 10


def test_authors_code_grows_its_step_from_a_fifth_to_two_fifths():
    # One PGD step a visit at zero start moves every value by exactly the step size.
    name, config = _small("mi_ue", "authors_code", epochs=1, pgd_steps=1)
    delta, _, _ = _run(name, config)
    moved = np.abs(delta)[np.abs(delta) > 0] * 255
    assert np.median(moved) == pytest.approx(0.2, rel=1e-3)
    assert config.step_size_end == 0.4


def test_presets_state_the_published_settings():
    paper, code = (methods.preset("mi_ue", n) for n in ("paper", "authors_code"))
    assert (paper.distance_weight, paper.step_size, paper.step_size_end) == (
        0.1,
        0.2,
        0.2,
    )
    assert (code.distance_weight, code.step_size, code.step_size_end) == (0.0, 0.2, 0.4)
    assert code.flip == "image_only"
    for config in (paper, code):
        assert config.temperature == 0.1
        assert config.normalization == "imagenet"
        assert (config.epochs, config.pgd_steps, config.radius) == (100, 10, 8.0)
    em = methods.preset("error_minimizing")
    assert (em.pgd_steps, em.step_size, em.batches_per_epoch) == (20, 0.8, 10)
    assert (em.stop_error, em.clip_norm, em.weight_decay) == (0.01, 5.0, 5e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: methods.preset("mi_eu"),
            "unknown method 'mi_eu'; did you mean 'mi_ue'",
        ),
        (lambda: methods.preset("mi_ue", "papr"), "did you mean 'paper'"),
        (lambda: methods.configure("mi_ue", {"radios": 8}), "did you mean 'radius'"),
        (lambda: methods.configure("mi_ue", {"radius": 0}), "radius is 0"),
        (lambda: methods.configure("mi_ue", {"radius": -1.0}), "radius is -1.0"),
        (lambda: methods.configure("mi_ue", {"radius": 256}), "radius is 256"),
        (lambda: methods.configure("mi_ue", {"flip": "both"}), "flip is 'both'"),
        (lambda: methods.configure("mi_ue", {"temperature": 0}), "temperature is 0"),
        (lambda: methods.configure("random_noise", {"radius": 0}), "radius is 0"),
        (
            lambda: methods.configure("mi_ue", {"epochs": 3, "perturb_every": 2}),
            "multiple of perturb_every",
        ),
        (
            lambda: methods.configure(
                "error_minimizing", {"schedule": "interleaved", "stop_error": 0.1}
            ),
            "belong to the alternating schedule",
        ),
        (
            lambda: methods.create(
                *_small("mi_ue", "paper", batch_size=128),
                num_examples=64,
                num_classes=4,
            ),
            "a batch of 128 images",
        ),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_step_is_traced_once():
    name, config = CASES["mi_ue/interleaved"]
    images, labels = _data()
    method = methods.create(
        name,
        config,
        num_examples=SIZE,
        num_classes=CLASSES,
        axis_name=parallel.AXIS,
    )
    traced = 0

    def step(key, state, data):
        nonlocal traced
        traced += 1
        return method.step(key, state, data)

    mesh = parallel.data_mesh(jax.devices()[:1])
    data = parallel.place(sampling.deal(images, labels, 1), mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = runner.start(method.init, mesh)(key, data)
    advance = runner.advance(step, mesh)
    state, _ = advance(key, state, data, 1)
    after_first = traced
    for stop in (2, 5, 7):
        state, _ = advance(key, state, data, stop)
    assert traced == after_first
    assert int(state.step) == 7
    assert jnp.isfinite(method.perturbation(state)).all()
