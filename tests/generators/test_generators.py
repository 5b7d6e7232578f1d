"""One table of generators, the same contract for all, and what each one promises."""

import dataclasses
import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from miue_jax import data, generators, losses, models
from miue_jax.data import artifact
from miue_jax.generators.testing import check_generator
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means

SIZE, CLASSES, BATCH = 64, 4, 16
SPEC = generators.DataSpec(
    num_examples=SIZE, num_classes=CLASSES, image_shape=(8, 8, 3)
)

_SMALL = {
    "model": "mlp2",
    "width": 32,
    "epochs": 2,
    "batch_size": BATCH,
    "pgd_steps": 2,
}


def _small(name: str, preset: str, **changes):
    config = generators.preset(name, preset)
    if hasattr(config, "model"):
        changes = {**_SMALL, "perturbation_batch_size": 32, **changes}
        if config.batches_per_epoch is not None:
            changes.setdefault("batches_per_epoch", 3)
    return name, dataclasses.replace(config, **changes)


_ATTACK = {
    "model": "mlp2",
    "width": 32,
    "epochs": 2,
    "batch_size": BATCH,
    "pgd_steps": 3,
    "step_size": 3.0,
    "perturbation_batch_size": 32,
}
_ROBUST = {
    "model": "mlp2",
    "width": 32,
    "batch_size": BATCH,
    "iterations": 4,
    "pgd_steps": 2,
    "step_size": 4.0,
    "transformations": 2,
    "crop": 2,
    "adversarial_steps": 1,
}


def _other(name: str, preset: str, **changes):
    return name, dataclasses.replace(generators.preset(name, preset), **changes)


_VIEWS = {
    "jpeg": 0.4,
    "grayscale": 0.1,
    "bit_depth": 0.1,
    "cutmix": 0.1,
    "noise": 0.2,
    "min_quality": 5,
}


CASES = {
    "mi_ue/paper": _small("mi_ue", "paper"),
    "mi_ue/authors_code": _small("mi_ue", "authors_code"),
    "mi_ue/interleaved": _small("mi_ue", "interleaved"),
    "mi_ue/class": _small("mi_ue", "interleaved", perturbation="class"),
    "mi_ue/bfloat16": _small("mi_ue", "interleaved", dtype="bfloat16"),
    "mi_ue/every_second": _small("mi_ue", "paper", perturb_every=2, flip="none"),
    "mi_ue/robust": _small(
        "mi_ue", "robust", views=_VIEWS, similarity="paired", entropy_weight=0.5
    ),
    "mi_ue/smooth": _small("mi_ue", "interleaved", smooth_radius=2.0),
    "mi_ue/class_means": _small(
        "mi_ue",
        "robust",
        views={**_VIEWS, "redraw": "step", "warmup": 0.5},
        similarity="class_means",
        entropy_weight=0.0,
        second_model="linear",
        adversarial_radius=2.0,
    ),
    "mi_ue/int8": _small("mi_ue", "interleaved", storage="int8"),
    "em/int8": _small("error_minimizing", "published", storage="int8"),
    "em/published": _small("error_minimizing", "published"),
    "em/plain": _small("error_minimizing", "plain"),
    "em/interleaved": _small("error_minimizing", "interleaved"),
    "em/class_wise": _small("error_minimizing", "class_wise"),
    "em/class": _small("error_minimizing", "plain", perturbation="class"),
    "random_noise": _small("random_noise", "uniform"),
    "random_noise/class": _small("random_noise", "uniform", perturbation="class"),
    "ap": _other("adversarial_poisoning", "targeted", **_ATTACK, restarts=2),
    "ap/untargeted": _other(
        "adversarial_poisoning", "untargeted", **_ATTACK, restarts=1
    ),
    "ap/views": _other(
        "adversarial_poisoning", "targeted", **_ATTACK, restarts=1, views=_VIEWS
    ),
    "ap/int8": _other(
        *("adversarial_poisoning", "targeted"),
        **{**_ATTACK, "restarts": 2, "storage": "int8"},
    ),
    "hypo": _other("hypocritical", "hypocritical", **_ATTACK, train_pgd_steps=1),
    "sep": _other(
        "self_ensemble", "variance_reduced", **_ATTACK, checkpoints=2, inner_steps=2
    ),
    "sep/plain": _other("self_ensemble", "sep", **_ATTACK, checkpoints=2),
    "sep/authors_code": _other(
        "self_ensemble", "authors_code", **_ATTACK, checkpoints=2, inner_steps=2
    ),
    "sep/bfloat16": _other(
        "self_ensemble", "sep", **_ATTACK, checkpoints=2, storage="bfloat16"
    ),
    "rem": _other("robust_error_minimizing", "rem", **_ROBUST),
    "sem": _other(
        "robust_error_minimizing", "sem", **{**_ROBUST, "adversarial_steps": 0}
    ),
    "rem/views": _other("robust_error_minimizing", "rem", **_ROBUST, views=_VIEWS),
    "rem/em": _other(
        "robust_error_minimizing",
        "em",
        **{**_ROBUST, "transformations": 1, "crop": 0},
    ),
    "pil": _other("perturbation_linear", "published", epochs=1, batch_size=BATCH),
    "ntga": _other(
        "neural_tangent", "fnn", block_size=16, validation_size=32, rows_at_once=8
    ),
    "ntga/pgd": _other(
        "neural_tangent", "pgd", block_size=16, validation_size=32, rows_at_once=8
    ),
    "lsp": _other("linear_synthetic", "published", patch_size=4),
    "ar": _other("autoregressive", "published", min_response=0.5),
    "ar/linf": _other("autoregressive", "linf", min_response=0.5),
    "ops": _other("one_pixel", "authors_code"),
    "ops/paper": _other("one_pixel", "paper", pixels=3),
    "cuda": _other("convolution_filter", "published"),
}
each_generator = pytest.mark.parametrize("case", list(CASES))


def test_every_generator_is_here():
    assert {name for name, _ in CASES.values()} == set(generators.NAMES)


@pytest.mark.parametrize("name", ["perturbation_linear", "neural_tangent", "ar"])
def test_generators_without_a_trained_surrogate_refuse_views(name):
    name = {"ar": "autoregressive"}.get(name, name)
    with pytest.raises(ValueError, match=r"unknown setting of .*'views'"):
        generators.spec(name, views="robust")


def test_views_are_a_setting_by_name_and_survive_json():
    spec = generators.spec("adversarial_poisoning", views="robust")
    assert spec.config.views.jpeg > 0
    plain = json.loads(json.dumps(spec.to_plain()))
    assert generators.spec(plain) == spec
    changed = {**plain["views"], "min_quality": 7}
    assert generators.spec(plain, views=changed).config.views.min_quality == 7
    with pytest.raises(ValueError, match="unknown views 'robust2'; did you mean"):
        generators.spec("mi_ue", views="robust2")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mi_ue", {"entropy_weight": 1.5}, "entropy_weight is 1.5"),
        ("mi_ue", {"similarity": "triplet"}, "similarity is 'triplet'; allowed: batch"),
        ("mi_ue", {"margin": 0.2}, "margin is 0.2; allowed with similarity 'batch': 0"),
        ("mi_ue", {"memory": 1.0}, "memory is 1.0"),
        ("mi_ue", {"second_width": 8}, "allowed without a second_model: None"),
        ("mi_ue", {"adversarial_radius": 300.0}, "gray levels from 0 to 255"),
        ("mi_ue", {"smooth_radius": 9.0}, "gray levels from 1 to radius, 8"),
        ("mi_ue", {"smooth_radius": 0.5}, "gray levels from 1 to radius, 8"),
        (
            "error_minimizing",
            {"smooth_radius": 2.0, "perturbation": "class"},
            "allowed with perturbation 'class', which no single picture limits: None",
        ),
        ("error_minimizing", {"adversarial_steps": -1}, "adversarial_steps is -1"),
        ("mi_ue", {"storage": "int4"}, "storage is 'int4'; did you mean 'int8'"),
        (
            "mi_ue",
            {"storage": "int8", "step_size": 0.06},
            "step_size is 0.06; allowed with storage 'int8' and .* at least 0.063",
        ),
        (
            "mi_ue",
            {"storage": "bfloat16", "step_size_end": 0.03},
            "step_size_end is 0.03; .* at least 0.0312 gray levels",
        ),
        (
            "error_minimizing",
            {"storage": "int8", "radius": 64.0},
            "radius is 64; allowed with storage 'int8': up to 63 gray levels",
        ),
        (
            "adversarial_poisoning",
            {"storage": "bfloat16", "radius": 129.0},
            "radius is 129; allowed with storage 'bfloat16': up to 128 gray levels",
        ),
        (
            "error_minimizing",
            {"storage": "int8", "perturbation": "class"},
            "perturbation is 'class'; allowed with storage 'int8': 'sample'",
        ),
        (
            "mi_ue",
            {"storage": "bfloat16", "smooth_radius": 2.0},
            "smooth_radius is 2.0; allowed with storage 'bfloat16': None",
        ),
        ("random_noise", {"storage": "int8"}, "unknown setting of .*'storage'"),
        ("self_ensemble", {"views": {"redraw": "step"}}, "allowed with SEP: 'visit'"),
    ],
)
def test_settings_of_robust_generators_that_make_no_sense_are_refused(
    name, changes, message
):
    with pytest.raises(ValueError, match=message):
        generators.spec(name, **changes)


def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (np.arange(SIZE) % CLASSES).astype(np.int32)
    images = rng.integers(0, 256, (SIZE, 8, 8, 3)).astype(np.uint8)
    return images, labels


class _Compiled(NamedTuple):
    generator: generators.Generator
    mesh: Mesh
    start: loop.Start
    advance: loop.Advance


@functools.cache
def _compile(
    name: str, config: Any, devices: int = 8, device_invariant: bool = False
) -> _Compiled:
    mesh = parallel.data_mesh(jax.devices()[:devices])
    spec = dataclasses.replace(SPEC, num_shards=8, axis_name=parallel.AXIS)
    generator = generators.create(name, config, spec)
    mode = {"device_invariant": device_invariant}
    start = loop.start(generator.init, mesh, **mode)
    advance = loop.advance(generator.step, mesh, **mode)
    return _Compiled(generator, mesh, start, advance)


def _run(name, config, *, selected=None, stops=(), **mode):
    """Runs a generator in calls that end at `stops`, by default at its last step."""
    images, labels = _data()
    generator, mesh, start, advance = _compile(name, config, **mode)
    dealt = sampling.deal(images, labels, 8, selected=selected)
    placed = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = start(key, placed)
    metrics = {}
    for stop in stops or (generator.num_steps,):
        state, metrics = advance(key, state, placed, stop)
    chosen = np.ones(SIZE, bool) if selected is None else selected
    delta = np.asarray(parallel.to_host(generator.perturbation(state)))
    delta = generators.per_example(generator, delta, labels, chosen)
    return delta, means.values(metrics), state


def _sizes(delta: np.ndarray, norm: str) -> np.ndarray:
    """The norm of every image's perturbation, in the units of a budget."""
    if norm == "linf":
        return np.abs(delta).max((1, 2, 3)) * 255
    if norm == "l2":
        return np.linalg.norm(delta.reshape(len(delta), -1), axis=1)
    return (delta != 0).any(3).sum((1, 2))


@each_generator
def test_it_keeps_the_contract(case):
    # OPS draws nothing.
    check_generator(*CASES[case], draws=not case.startswith("ops"))


@each_generator
def test_perturbations_go_as_far_as_their_steps_and_respect_the_budget(case):
    name, config = CASES[case]
    delta, metrics, state = _run(name, config)
    assert delta.shape == (SIZE, 8, 8, 3)
    assert delta.dtype == np.float32
    budget = _compile(name, config).generator.budget
    norm, radius = budget.norm, budget.radius
    if radius is not None:
        sizes = _sizes(delta, norm)
        assert sizes.max() <= radius * (1 + 1e-5)
        # A visit's steps need not agree, but in some value of so many they do.
        steps = getattr(config, "pgd_steps", 1) * getattr(config, "step_size", np.inf)
        # What the image's box cuts off makes a norm of the whole image shorter.
        share = 0.9 if norm == "l2" else 0.99
        assert sizes.max() > share * min(radius, steps)
    per_class = getattr(config, "perturbation", "sample") == "class"
    # Noise is cut when it is added, and what stays put while the image is mirrored has
    # two images to fit.
    free = name == "random_noise" or getattr(config, "flip", "none") == "image_only"
    if not per_class and not free:
        shown = _data()[0] / 255 + delta
        # Half a step of a compact form, 1/16 of a gray level.
        off = 1e-6 if getattr(config, "storage", "float32") == "float32" else 1.3e-4
        assert -off <= shown.min() <= shown.max() <= 1 + off
    changed = np.abs(delta).max((1, 2, 3)) > 0
    assert changed.all(), f"{(~changed).sum()} images were never visited"
    assert all(np.isfinite(value) for value in metrics.values())
    assert int(state.step) > 0
    if per_class:
        labels = np.arange(SIZE) % CLASSES
        for label in range(CLASSES):
            assert np.ptp(delta[labels == label], axis=0).max() == 0
    else:
        assert not np.allclose(delta[0], delta[CLASSES])
    clean = data.Dataset(*_data(), tuple("abcd"))
    made = artifact.build(clean, delta, budget=budget, metadata={})
    assert made.metadata["norm"] == budget.norm
    # Less than half a gray level rounds to nothing.
    seen = np.abs(delta).max() * 255 > 0.51
    assert (made.metadata["audit"]["max_change"] > 0) == seen


def _bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.slow
@each_generator
def test_it_is_equal_on_one_and_eight_devices_if_asked_to(case):
    selected = np.arange(SIZE) % 5 > 0
    one, eight = (
        _run(*CASES[case], selected=selected, devices=n, device_invariant=True)
        for n in (1, 8)
    )
    assert np.any(one[0])
    assert _bytes(jax.device_get(one)) == _bytes(jax.device_get(eight))


def test_equal_on_all_devices_is_the_same_method():
    name, config = CASES["mi_ue/interleaved"]
    fast, equal = (
        _run(name, config, stops=(1,), devices=1, device_invariant=mode)
        for mode in (False, True)
    )
    # Rounding turns few signs in the first step.
    assert np.mean(np.abs(fast[0] - equal[0]) > 1e-6) < 0.02
    for metric, value in fast[1].items():
        assert equal[1][metric] == pytest.approx(value, rel=1e-4), metric


@pytest.mark.parametrize("case", ["random_noise", "random_noise/class"])
def test_noise_is_uniform_in_the_whole_ball(case):
    name, config = CASES[case]
    delta, _, _ = _run(name, config)
    # Of a class the images share one draw.
    noise = delta[:CLASSES] if config.perturbation == "class" else delta
    noise = noise * 255 / config.radius
    assert noise.max() > 0.99
    assert noise.min() < -0.99
    deviation = 1 / np.sqrt(3)
    assert abs(noise.mean()) < 4 * deviation / np.sqrt(noise.size)
    assert noise.std() == pytest.approx(deviation, rel=0.05)


@each_generator
def test_only_selected_images_change(case):
    name, config = CASES[case]
    labels = np.arange(SIZE) % CLASSES
    selected = generators.select(labels, fraction=0.5, classes=(1, 3), seed=4)
    assert selected.sum() == 16
    assert set(labels[selected]) == {1, 3}
    delta, _, _ = _run(name, config, selected=selected)
    changed = np.abs(delta).max((1, 2, 3)) > 0
    np.testing.assert_array_equal(changed, selected)


def test_selection_is_seeded_and_checked():
    labels = np.arange(40) % 4
    a, b = (generators.select(labels, fraction=0.25, seed=s) for s in (0, 1))
    assert a.sum() == b.sum() == 10
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, generators.select(labels, fraction=0.25, seed=0))
    for arguments, message in (
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"classes": (7,)}, "class 7 to protect is not in the data"),
        ({"fraction": 0.001}, "leaves none to protect"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, r"seed is 1\.5"),
    ):
        with pytest.raises(ValueError, match=message):
            generators.select(labels, **arguments)


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
    early, _, _ = _run(name, dataclasses.replace(config, epochs=1))
    np.testing.assert_array_equal(whole, early)


def test_em_goes_on_while_its_error_is_high():
    name, config = _small("error_minimizing", "published", stop_error=0.0, epochs=2)
    config = dataclasses.replace(config, step_size=1e-4, step_size_end=1e-4)
    _, _, state = _run(name, config)
    assert not bool(state.shared.finished)
    assert int(state.step) == 10


def test_authors_code_grows_its_step_from_a_fifth_to_two_fifths():
    # With one PGD step a visit, values move by exactly the step size of their epoch.
    name, config = _small("mi_ue", "authors_code", epochs=4, pgd_steps=1)
    epoch = SIZE // BATCH + SIZE // config.perturbation_batch_size
    before = np.zeros(())
    for visits, step_size in enumerate((0.2, 0.25, 0.3, 0.35), start=1):
        delta, _, _ = _run(name, config, stops=(visits * epoch,))
        moved = np.abs(delta - before)
        moved = moved[moved > 0] * 255
        assert np.median(moved) == pytest.approx(step_size, rel=1e-3)
        before = delta
    assert config.step_size_end == 0.4


@pytest.mark.parametrize(
    ("temperature", "distance_weight"), [(0.1, 0.0), (0.5, 0.0), (0.5, 2.0)]
)
def test_mi_ue_lowers_the_published_loss_of_its_settings(temperature, distance_weight):
    _, config = _small(
        "mi_ue",
        "interleaved",
        batch_size=SIZE,
        flip="none",
        temperature=temperature,
        distance_weight=distance_weight,
    )
    images, labels = _data()
    dealt = sampling.deal(images, labels, 1)
    generator = generators.create("mi_ue", config, SPEC)
    key = jax.random.key(0)
    state = generator.init(key, dealt)
    module = models.create(config.model, num_classes=CLASSES, width=config.width)
    features, _ = module.apply(
        state.shared.learner.variables,
        jnp.asarray(images / 255, jnp.float32),
        train=False,
    )
    want = losses.mi_ue_loss(
        features, labels, temperature=temperature, distance_weight=distance_weight
    )
    _, metrics = jax.jit(generator.step)(key, state, dealt)
    found = means.values(metrics)["perturbation_loss"]
    assert found == pytest.approx(float(want), rel=1e-4)
    # The settings are far enough from the defaults for this to tell.
    default = losses.mi_ue_loss(features, labels)
    assert found != pytest.approx(float(default), rel=1e-3)


def test_presets_state_the_published_settings():
    paper, code = (generators.preset("mi_ue", n) for n in ("paper", "authors_code"))
    assert (paper.distance_weight, paper.step_size, paper.step_size_end) == (
        0.1,
        0.2,
        0.2,
    )
    assert (code.distance_weight, code.step_size, code.step_size_end) == (0.0, 0.2, 0.4)
    assert code.flip == "image_only"
    assert (paper.distance_per_dimension, code.distance_per_dimension) == (False, True)
    for config in (paper, code):
        assert config.temperature == 0.1
        assert config.normalization == "imagenet"
        assert (config.epochs, config.pgd_steps, config.radius) == (100, 10, 8.0)
    em = generators.preset("error_minimizing")
    assert (em.pgd_steps, em.step_size, em.batches_per_epoch) == (20, 0.8, 10)
    assert (em.stop_error, em.clip_norm, em.weight_decay) == (0.01, 5.0, 5e-4)
    em = generators.preset("error_minimizing", "class_wise")
    assert (em.perturbation, em.pgd_steps, em.stop_error) == ("class", 1, 0.1)
    # A fifth of CIFAR-10.
    assert em.batches_per_visit * em.perturbation_batch_size == pytest.approx(1e4, 0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: generators.preset("mi_eu"),
            "unknown generator 'mi_eu'; did you mean 'mi_ue'",
        ),
        (lambda: generators.preset("mi_ue", "papr"), "did you mean 'paper'"),
        (
            lambda: generators.spec("mi_ue", radios=8),
            "did you mean 'radius'",
        ),
        (lambda: generators.spec("mi_ue", radius=0), "radius is 0"),
        (lambda: generators.spec("mi_ue", radius=-1.0), "radius is -1.0"),
        (lambda: generators.spec("mi_ue", radius=256), "radius is 256"),
        (lambda: generators.spec("mi_ue", flip="both"), "flip is 'both'"),
        (
            lambda: generators.spec("mi_ue", temperature=0),
            "temperature is 0",
        ),
        (lambda: generators.spec("random_noise", radius=0), "radius is 0"),
        (
            lambda: generators.spec("mi_ue", epochs=3, perturb_every=2),
            "multiple of perturb_every",
        ),
        (
            lambda: generators.spec(
                {
                    "name": "error_minimizing",
                    "schedule": "interleaved",
                    "stop_error": 0.1,
                }
            ),
            "belong to the alternating schedule",
        ),
        (
            lambda: generators.create(*_small("mi_ue", "paper", batch_size=128), SPEC),
            "a batch of 128 images",
        ),
        (lambda: generators.preset(None), "unknown generator None; "),
        (
            lambda: generators.preset("mi_ue", 5),
            "unknown mi_ue preset 5; allowed: paper",
        ),
        (lambda: generators.preset("mi_ue", ""), "unknown mi_ue preset ''"),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


NAN, INF = float("nan"), float("inf")
BAD_NUMBERS = {
    "radius": (NAN, INF, "8", None, True, 7.5),
    "step_size": (NAN, INF, 0, -0.1, "1"),
    "step_size_end": (NAN, INF, 0),
    "pgd_steps": (0, -1, 1.5, 2.0, True),
    "epochs": (0, 2.0, "3"),
    "perturb_every": (0, 1.0),
    "batches_per_epoch": (0, -3, 1.5),
    "batches_per_visit": (0, -3, 1.5),
    "batch_size": (0, 16.0),
    "perturbation_batch_size": (0, 16.0),
    "width": (0, 8.0),
    "crop": (-1, 1.5, NAN),
    "learning_rate": (NAN, INF, 0.0, -0.1),
    "learning_rate_end": (NAN, INF, -1e-6),
    "momentum": (NAN, -0.1, 1, 5),
    "weight_decay": (NAN, INF, -5e-4),
    "clip_norm": (NAN, INF, 0.0, -1),
    "stop_error": (NAN, -1, 1.1),
    "temperature": (NAN, INF, 0, -0.1),
    "distance_weight": (NAN, INF, -0.1),
}


@pytest.mark.parametrize("field", BAD_NUMBERS)
def test_numbers_that_make_no_sense_are_refused(field):
    defaults = dataclasses.asdict(generators.preset("mi_ue", "paper"))
    assert generators.spec({"name": "mi_ue", **defaults}) == generators.spec(
        "mi_ue/paper"
    )
    for value in BAD_NUMBERS[field]:
        with pytest.raises(ValueError, match=f"^{field} is {value!r}; .*llowed: "):
            generators.spec({"name": "mi_ue", field: value})
    if field == "radius":
        for value in BAD_NUMBERS[field]:
            with pytest.raises(ValueError, match=f"^radius is {value!r}; .*llowed: "):
                generators.spec({"name": "random_noise", field: value})


def test_numbers_of_numpy_and_the_ends_of_the_ranges_are_allowed():
    generators.spec(
        {
            "name": "mi_ue",
            "epochs": np.int64(2),
            "radius": np.float32(4),
            "momentum": 0,
            "weight_decay": 0.0,
            "learning_rate_end": 0,
            "stop_error": 1,
            "distance_weight": np.float64(0),
        },
    )


def test_batches_larger_than_the_data_are_clipped_to_what_fills_the_shards():
    spec = dataclasses.replace(SPEC, num_examples=50, num_shards=8)
    config = generators.preset("mi_ue", "paper")
    clipped = generators.clip_batches(config, spec)
    assert (clipped.batch_size, clipped.perturbation_batch_size) == (48, 48)
    assert clipped == dataclasses.replace(
        config, batch_size=48, perturbation_batch_size=48
    )
    generators.create("mi_ue", clipped, spec)
    interleaved = generators.preset("mi_ue", "interleaved")
    clipped = generators.clip_batches(interleaved, spec)
    # It makes no perturbation passes.
    assert clipped == dataclasses.replace(interleaved, batch_size=48)
    # What fits stays, and so does what has no batches.
    small = dataclasses.replace(config, batch_size=16, perturbation_batch_size=48)
    assert generators.clip_batches(small, spec) is small
    noise = generators.preset("random_noise")
    assert generators.clip_batches(noise, spec) is noise
    one = generators.clip_batches(small, dataclasses.replace(spec, num_shards=1))
    assert one is small
    few = dataclasses.replace(spec, num_examples=7)
    with pytest.raises(ValueError, match="7 images cannot be dealt to 8 shards; set"):
        generators.clip_batches(config, few)


@dataclasses.dataclass(frozen=True)
class _Optional:
    batch_size: int | None = None


def test_a_batch_that_is_not_a_number_is_left_as_it_is():
    config = _Optional()
    assert generators.clip_batches(config, SPEC) is config
    assert generators.clip_batches(_Optional(500), SPEC) == _Optional(SIZE)


def test_names_and_settings_survive_as_plain_values():
    for name in generators.NAMES:
        for preset in generators.presets(name):
            spec = generators.spec(f"{name}/{preset}")
            assert spec.config == generators.preset(name, preset)
            plain = json.loads(json.dumps(spec.to_plain()))
            assert plain["name"] == name
            assert generators.spec(plain) == spec
        assert generators.spec(name) == generators.spec(
            f"{name}/{generators.presets(name)[0]}"
        )
    changed = generators.spec("mi_ue/interleaved", radius=4)
    assert changed.config == generators.preset("mi_ue", "interleaved", radius=4)
    assert generators.spec(changed, radius=8.0) == generators.spec("mi_ue/interleaved")


@pytest.mark.parametrize("num_shards", [3, 7, 200])
def test_a_batch_that_does_not_split_over_the_shards_is_refused(num_shards):
    spec = dataclasses.replace(SPEC, num_examples=1000, num_shards=num_shards)
    for case in ("mi_ue/paper", "mi_ue/interleaved"):
        name, config = CASES[case]
        with pytest.raises(ValueError, match=f"16 images .* over {num_shards} shards"):
            generators.create(name, config, spec)


@pytest.mark.parametrize("case", ["mi_ue/paper", "ap", "sep"])
def test_the_setting_of_a_batch_that_does_not_fit_is_named(case):
    name, config = CASES[case]
    for field in ("batch_size", "perturbation_batch_size"):
        for size, message in ((20, "does not split"), (SIZE + 8, "is larger than")):
            changed = dataclasses.replace(config, **{field: size})
            spec = dataclasses.replace(SPEC, num_shards=8)
            with pytest.raises(ValueError, match=f"{message} .*; set {field} to"):
                generators.create(name, changed, spec)


@pytest.mark.parametrize(("crop", "fits"), [(7, True), (8, False), (100, False)])
def test_a_crop_leaves_something_of_the_image(crop, fits):
    name, config = _small("mi_ue", "interleaved", crop=crop)
    if fits:
        generator = generators.create(name, config, SPEC)
        dealt = sampling.deal(*_data(), 1)
        jax.eval_shape(generator.init, jax.random.key(0), dealt)
        return
    with pytest.raises(ValueError, match=f"crop is {crop} pixels, the images have 8x8"):
        generators.create(name, config, SPEC)


def test_a_step_is_traced_once():
    name, config = CASES["mi_ue/interleaved"]
    images, labels = _data()
    spec = dataclasses.replace(SPEC, axis_name=parallel.AXIS)
    generator = generators.create(name, config, spec)
    traced = 0

    def step(key, state, data):
        nonlocal traced
        traced += 1
        return generator.step(key, state, data)

    mesh = parallel.data_mesh(jax.devices()[:1])
    placed = parallel.place(sampling.deal(images, labels, 1), mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(generator.init, mesh)(key, placed)
    advance = loop.advance(step, mesh)
    state, _ = advance(key, state, placed, 1)
    after_first = traced
    for stop in (2, 5, 7):
        state, _ = advance(key, state, placed, stop)
    assert traced == after_first
    assert int(state.step) == 7
    assert jnp.isfinite(generator.perturbation(state)).all()
