"""Alternation: whose turn it is to move, and by how much."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.generators import surrogate
from miue_jax.train import loop, parallel, sampling

SIZE, SHARDS = 40, 1


LABELS = (np.arange(SIZE) % 3 == 0).astype(np.int32)


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(64, 192, (SIZE, 8, 8, 3), np.uint8)


def _run(**changes):
    """The generator and its last state."""
    images = _images()
    config = dataclasses.replace(
        generators.preset("error_minimizing", "plain"),
        model="mlp2",
        width=8,
        # So that no unit dies, and every visit has a gradient.
        learning_rate=1e-3,
        learning_rate_end=1e-3,
        **{
            "batch_size": 8,
            "perturbation_batch_size": 32,
            "epochs": 1,
            "pgd_steps": 1,
            **changes,
        },
        step_size=1.0,
        step_size_end=1.0,
    )
    method = generators.create(
        "error_minimizing",
        config,
        num_examples=SIZE,
        num_classes=2,
        num_shards=SHARDS,
        axis_name=parallel.AXIS,
    )
    mesh = parallel.data_mesh(jax.devices()[:1])
    dealt = sampling.deal(images, LABELS, SHARDS)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(method.init, mesh)(key, data)
    state, _ = loop.advance(method.step, mesh)(key, state, data, method.num_steps)
    return method, config, state


def _moves(**changes):
    """Largest change of each image, in steps, after the run."""
    method, _, state = _run(**changes)
    moved = 255 * jnp.abs(method.perturbation(state))
    return np.rint(np.asarray(moved).max((0, 2, 3, 4)))


def test_a_visit_of_all_images_moves_each_of_them_once():
    # Two batches of 32 hold 24 of the 40 images twice.
    moved = _moves()
    np.testing.assert_array_equal(moved, 1, "images that fill up a batch move twice")


def test_a_visit_of_fewer_batches_takes_others_each_time():
    moved = _moves(batches_per_visit=1, perturbation_batch_size=8)
    assert sorted(moved) == [0] * 32 + [1] * 8
    moved = _moves(batches_per_visit=1, perturbation_batch_size=8, epochs=20)
    # Of 20 draws of a fifth, one image in ninety is in none.
    assert np.count_nonzero(moved) > 35, "it is always the same images"


def test_interleaved_every_batch_moves_right_before_it_is_trained_on():
    moved = _moves(schedule="interleaved", batch_size=16)
    # Three batches of 16 hold 8 of the 40 images twice.
    assert sorted(moved) == [1] * 32 + [2] * 8


@pytest.mark.parametrize("radius", [128.0, 255.0])
def test_perturbations_of_classes_stay_below_half_the_range(radius):
    with pytest.raises(ValueError, match=r"allowed with perturbation 'class': .* 127"):
        _moves(perturbation="class", radius=radius)


@pytest.mark.parametrize("perturbation_batch_size", [8, 32])
def test_a_run_stops_where_the_error_on_moved_images_is_low_enough(
    perturbation_batch_size,
):
    # So little is learned and moved that the surrogate is wrong of some images.
    small = {
        "perturbation_batch_size": perturbation_batch_size,
        "epochs": 2,
        "pgd_steps": 1,
    }
    method, config, state = _run(**{**small, "epochs": 1})
    module = surrogate.create(config, num_classes=2, axis_name=None)
    delta = sampling.collect(np.asarray(method.perturbation(state)), SIZE)
    seen = jnp.asarray(_images() / 255 + delta, jnp.float32)
    variables = jax.device_get(state.shared.learner.variables)
    outputs = module.apply(variables, seen, train=False)
    wrong = int(np.sum(np.argmax(outputs[1], -1) != LABELS))
    # With as many right ones accuracy would do for error.
    assert 0 < wrong < SIZE
    assert wrong != SIZE // 2
    for stop_error, finished in (
        (wrong / SIZE + 1e-4, True),
        (wrong / SIZE - 1e-4, False),
    ):
        _, _, state = _run(**small, stop_error=stop_error)
        steps = SIZE // 8 + -(-SIZE // perturbation_batch_size)
        assert (int(state.step) == steps) == finished
