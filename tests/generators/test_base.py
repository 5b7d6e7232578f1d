"""The interface of a generator, and how stages become a step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.budget import Budget
from miue_jax.generators.base import (
    DataSpec,
    Generator,
    Stage,
    by_class,
    from_function,
    in_stages,
    per_example,
    to_sharded,
)
from miue_jax.train import sampling
from miue_jax.train.metrics import mean_of
from miue_jax.train.parallel import State

SPEC = DataSpec(num_examples=20, num_classes=3, image_shape=(4, 4, 3), num_shards=8)


def test_batches_are_dealt_to_the_shards():
    assert SPEC.share(16) == 2
    # Three rows in the larger shards, two of them in a batch.
    assert SPEC.steps_per_pass(16) == 2
    assert SPEC.steps_per_pass(8) == 3
    one = dataclasses.replace(SPEC, num_shards=1)
    assert (one.share(7), one.steps_per_pass(7)) == (7, 3)
    for batch_size, message in (
        (24, "a batch of 24 images from 8 shards is larger than the data set"),
        (12, "12 images does not split over 8 shards"),
    ):
        with pytest.raises(ValueError, match=message):
            SPEC.steps_per_pass(batch_size)


def test_means_and_sums_are_over_the_devices_of_a_mesh():
    values = jnp.arange(4.0)
    assert SPEC.mean({"a": values})["a"] is values
    assert SPEC.sum(values) is values
    mesh = dataclasses.replace(SPEC, axis_name="devices")
    for reduce, want in ((mesh.mean, 1.5), (mesh.sum, 6.0)):
        reduced = jax.vmap(lambda x, f=reduce: f({"a": x}), axis_name="devices")(values)
        np.testing.assert_array_equal(reduced["a"], np.full(4, want))


@pytest.mark.parametrize("num_classes", [1, 0])
def test_there_are_at_least_two_classes(num_classes):
    with pytest.raises(ValueError, match=f"num_classes is {num_classes}; it must be"):
        dataclasses.replace(SPEC, num_classes=num_classes)


def test_defaults_are_those_of_one_step_of_the_default_budget():
    given = Generator(lambda *_: None, lambda *_: None)
    assert given.num_steps == 1
    assert given.perturbation(given) is given
    assert not given.finished(None)
    assert given.budget == Budget("linf", 8.0)
    assert not given.per_class
    assert not given.sharded


def test_a_sharded_generator_is_left_as_it_is():
    given = Generator(lambda *_: None, lambda *_: None, sharded=True)
    assert to_sharded(given, SPEC) is given


def _dealt() -> tuple[np.ndarray, np.ndarray, sampling.Shards]:
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    labels = np.arange(20) % 3
    return images, labels, sampling.deal(images, labels, 8)


def test_whole_arrays_are_in_the_order_of_the_data_and_come_back_in_it():
    images, labels, dealt = _dealt()
    seen: list[Any] = []

    def function(key, images, labels, *, scale):
        seen.append((images, labels))
        return scale * images + labels[:, None, None, None]

    generator = to_sharded(from_function(function, scale=0.25), SPEC)
    state = generator.init(jax.random.key(0), dealt)
    state, metrics = generator.step(jax.random.key(0), state, dealt)
    assert metrics == {}
    np.testing.assert_array_equal(seen[0][1], labels)
    np.testing.assert_allclose(seen[0][0], images / 255, rtol=1e-6)
    assert seen[0][0].dtype == jnp.float32
    delta = generator.perturbation(state)
    assert delta.shape == (8, 3, 4, 4, 3)
    chosen = np.ones(20, bool)
    found = per_example(generator, np.asarray(delta), labels, chosen)
    want = images / 255 / 4 + labels[:, None, None, None]
    np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, np.float64])
def test_a_perturbation_of_any_floating_type_is_made_float32(dtype):
    _, _, dealt = _dealt()
    state = State(jnp.int32(0), None, None)
    for per_class in (False, True):
        shape = (3 if per_class else 20, 4, 4, 3)
        given = Generator(
            lambda *_: None,
            lambda *_: None,
            perturbation=lambda _, s=shape: np.full(s, 0.25, dtype),
            per_class=per_class,
        )
        delta = to_sharded(given, SPEC).perturbation(state)
        assert delta.dtype == jnp.float32
        assert set(np.unique(delta)) <= {0.0, 0.25}
    function = from_function(lambda key, images, labels: np.zeros(images.shape, dtype))
    state, _ = to_sharded(function, SPEC).step(
        jax.random.key(0), State(jnp.int32(0), jnp.zeros((20, 4, 4, 3)), None), dealt
    )
    assert state.shared.dtype == jnp.float32


def test_a_state_keeps_its_dtypes():
    _, _, dealt = _dealt()

    def run(change):
        given = Generator(
            init=lambda key, images, labels: {"x": jnp.zeros(3, jnp.float32), "n": 0},
            step=lambda key, state, images, labels: {**state, **change},
        )
        generator = to_sharded(given, SPEC)
        state = generator.init(jax.random.key(0), dealt)
        return generator.step(jax.random.key(0), state, dealt)[0].shared

    state = run({"x": jnp.ones(3, jnp.bfloat16), "n": jnp.int32(2)})
    assert (state["x"].dtype, state["n"].dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(state["x"], 1)
    for change in ({"x": jnp.ones(4)}, {"x": jnp.ones(3, int)}, {"n": 1.0}):
        with pytest.raises(ValueError, match="must keep the shapes and dtypes"):
            run(change)
    for change in ({"y": 1}, {"x": None}):
        with pytest.raises(ValueError, match="must return a state like init's"):
            run(change)


def test_by_class_keeps_each_rows_own_class():
    labels = jnp.array([[0, 1, 2], [2, 5, 0]])
    rows = jnp.arange(6.0).reshape(2, 3, 1) * jnp.ones(4)
    found = by_class(lambda label: rows + 10 * label, labels, 3)
    want = np.asarray(rows) + 10 * np.asarray(labels)[..., None]
    want[1, 1] = 0  # which is not a class
    np.testing.assert_array_equal(found, want)


def test_a_perturbation_of_the_wrong_shape_is_refused():
    labels, chosen = np.arange(20) % 3, np.ones(20, bool)
    images = Generator(lambda *_: None, lambda *_: None, sharded=True)
    classes = images._replace(per_class=True)
    for generator, shape, message in (
        (images, (8, 2, 4, 4, 3), r"\(G, n, H, W, C\) with G n >= 20, got \(8, 2, 4"),
        (images, (20, 4, 4, 3), r"\(G, n, H, W, C\)"),
        (classes, (2, 4, 4, 3), r"\(K, H, W, C\) with K >= 3, got \(2, 4"),
    ):
        with pytest.raises(ValueError, match=message):
            per_example(generator, np.zeros(shape, np.float32), labels, chosen)
    chosen[:4] = False
    whole = per_example(classes, np.ones((3, 4, 4, 3), np.float32), labels, chosen)
    np.testing.assert_array_equal(whole.max((1, 2, 3)), chosen)


# Stages.


def _stage(number: int, num_steps: int, measures: tuple[str, ...]) -> Stage:
    def step(key, count, state, data):
        del key, data
        log = state.shared.at[state.step].set(10 * number + count)
        metrics = {name: mean_of(jnp.float32(number)) for name in measures}
        return state._replace(shared=log), metrics

    return Stage(step, num_steps, measures)


@pytest.mark.parametrize("shuffle", [False, True])
def test_stages_are_done_in_order_and_count_their_own_steps(shuffle):
    first, second = _stage(1, 3, ("loss",)), _stage(2, 2, ("loss", "accuracy"))
    third = _stage(3, 1, ())
    stages = (third, first, second) if shuffle else (first, second, third)
    step, num_steps = in_stages(stages)
    assert num_steps == 6
    state = State(jnp.int32(0), jnp.full(8, -1), ())
    nothing: Any = None
    compiled = jax.jit(lambda state: step(jax.random.key(0), state, nothing))
    measured = []
    for _ in range(num_steps):
        state, metrics = compiled(state)
        assert set(metrics) == {"loss", "accuracy"}
        measured.append([float(metrics[n].weight) for n in ("loss", "accuracy")])
    want = [30, 10, 11, 12, 20, 21] if shuffle else [10, 11, 12, 20, 21, 30]
    np.testing.assert_array_equal(state.shared, [*want, -1, -1])
    weights = {1: [1, 0], 2: [1, 1], 3: [0, 0]}
    assert measured == [weights[value // 10] for value in want]
    assert int(state.step) == 6
