"""Min-min generation: who moves when, what the surrogate sees, and how far."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.generators import perturbation_steps, surrogate
from miue_jax.generators.min_min import MinMinConfig, visit
from miue_jax.generators.perturbation_store import PerturbationStore
from miue_jax.train import loop, parallel, sampling

SIZE = 40
SPEC = generators.DataSpec(
    num_examples=SIZE,
    num_classes=2,
    image_shape=(8, 8, 3),
    axis_name=parallel.AXIS,
)
LABELS = (np.arange(SIZE) % 3 == 0).astype(np.int32)


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(64, 192, (SIZE, 8, 8, 3), np.uint8)


def _run(images=None, **changes):
    """The generator and its last state."""
    images = _images() if images is None else images
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
    generator = generators.create("error_minimizing", config, SPEC)
    mesh = parallel.data_mesh(jax.devices()[:1])
    dealt = sampling.deal(images, LABELS, 1)
    data = parallel.place(dealt, mesh, parallel.DATA_SPEC)
    key = jax.random.key(0)
    state = loop.start(generator.init, mesh)(key, data)
    state, _ = loop.advance(generator.step, mesh)(key, state, data, generator.num_steps)
    return generator, config, state


def _moves(**changes):
    """Largest change of each image, in steps, after the run."""
    generator, _, state = _run(**changes)
    moved = 255 * jnp.abs(generator.perturbation(state))
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


@pytest.mark.parametrize("storage", ["int8", "bfloat16"])
@pytest.mark.parametrize("schedule", ["alternating", "interleaved"])
def test_a_compact_form_holds_the_nearest_of_what_float32_does(storage, schedule):
    # The first step starts from 0, so that both find the same gradients.
    options = {"schedule": schedule, "batch_size": SIZE, "perturbation_batch_size": 40}
    exact, compact = (_run(**options, storage=s)[::2] for s in ("float32", storage))
    stored = compact[1].per_example.stored
    assert stored.dtype == jnp.dtype(storage)
    form = PerturbationStore(storage, 8.0)
    want = form.encode(exact[1].per_example.stored)
    assert np.any(want)
    np.testing.assert_array_equal(np.asarray(stored), np.asarray(want))
    generator, state = compact
    np.testing.assert_array_equal(generator.perturbation(state), form.decode(want))
    np.testing.assert_array_equal(
        generator.decode(generator.stored(state)), generator.perturbation(state)
    )


@pytest.mark.parametrize("name", ["published", "plain", "interleaved"])
def test_no_step_copies_all_perturbations(name):
    spec = dataclasses.replace(SPEC, num_examples=8192, image_shape=(16, 16, 3))
    config = generators.preset(
        *("error_minimizing", name),
        model="linear",
        batch_size=32,
        perturbation_batch_size=32,
    )
    generator = generators.create("error_minimizing", config, spec)
    shapes = jax.eval_shape(
        lambda: sampling.Shards(
            jnp.zeros((1, 8192, 16, 16, 3), jnp.uint8),
            jnp.zeros((1, 8192), jnp.int32),
            jnp.zeros((1, 8192), bool),
            *(jnp.zeros(1, jnp.int32) for _ in range(2)),
        )
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(generator.init, key, shapes)
    mesh = parallel.data_mesh(jax.devices()[:1])

    def steps(key, state, data):
        def body(_, state):
            return generator.step(key, state, data)[0]

        return jax.lax.fori_loop(0, 3, body, state)

    compiled = parallel.parallelize(
        steps,
        mesh,
        in_specs=(
            parallel.REPLICATED_SPEC,
            parallel.STATE_SPEC,
            parallel.DATA_SPEC,
        ),
        out_specs=parallel.STATE_SPEC,
        donate_argnums=1,
    )
    memory = compiled.lower(key, state, shapes).compile().memory_analysis()
    table = 4 * 8192 * 16 * 16 * 3
    assert memory.alias_size_in_bytes >= table
    assert memory.temp_size_in_bytes < table / 2


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
    generator, config, state = _run(**{**small, "epochs": 1})
    module = surrogate.create(config, dataclasses.replace(SPEC, axis_name=None))
    delta = sampling.collect(np.asarray(generator.perturbation(state)), SIZE)
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


# Views.

CONFIG = MinMinConfig()


def _draw(seed: int = 0, **changes):
    images = jax.random.uniform(jax.random.key(9), (2, 16, 8, 8, 3), minval=0.2)
    config = dataclasses.replace(CONFIG, **changes)
    view = visit._draw_view(jax.random.key(seed), jnp.array([0, 1]), images, config)
    return np.asarray(images).reshape(-1, 8, 8, 3), view


def test_the_plain_view_changes_nothing():
    images, view = _draw()
    np.testing.assert_array_equal(view.carriers, images)
    np.testing.assert_array_equal(view.seen(images), images)


def test_image_only_mirrors_under_the_perturbation_and_joint_with_it():
    images, view = _draw(flip="image_only")
    mirrored = (np.asarray(view.carriers) != images).any((1, 2, 3))
    assert 4 < mirrored.sum() < 28
    np.testing.assert_array_equal(view.seen(images), images)
    images, view = _draw(flip="joint")
    np.testing.assert_array_equal(view.carriers, images)
    seen = np.asarray(view.seen(images))
    expected = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(seen, expected)


def test_a_crop_is_the_same_each_time_and_loses_only_what_leaves_the_image():
    images, view = _draw(crop=2)
    first = np.asarray(view.seen(images))
    np.testing.assert_array_equal(first, view.seen(images))
    assert (first != images).any((1, 2, 3)).sum() > 16
    inner = first[:, 2:-2, 2:-2]
    assert (inner > 0).all(), "a shift of two pixels reaches no pixel further in"
    gradient = jax.grad(lambda x: view.seen(x).sum())(jnp.asarray(images))
    assert set(np.unique(gradient)) == {0.0, 1.0}


def test_normalization_is_of_the_input_alone():
    images, view = _draw(normalization="imagenet")
    np.testing.assert_array_equal(view.carriers, images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(
        view.seen(images), (images - mean) / std, rtol=1e-4, atol=1e-5
    )


def test_keys_matter_and_a_negative_crop_is_refused():
    images, view = _draw(seed=0, flip="joint", crop=2)
    _, other = _draw(seed=1, flip="joint", crop=2)
    assert (np.asarray(view.seen(images)) != np.asarray(other.seen(images))).any()
    with pytest.raises(ValueError, match="crop is -1"):
        dataclasses.replace(CONFIG, crop=-1)


# Perturbation steps, against projected gradient written out.

SHAPE, CLASSES = (4, 4, 1), 3
RADIUS, STEP = 8 / 255, 3 / 255


def _batch(selected) -> sampling.Batch:
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE)).astype(np.uint8)
    labels = np.arange(6) % CLASSES
    data = sampling.deal(images, labels, 1, selected=np.asarray(selected))
    return sampling.take(data, jnp.arange(6)[None], jnp.int32(0), 6)


def _coupled(images: jax.Array) -> jax.Array:
    """A loss whose gradient at an image depends on all the others."""
    flat = jnp.tanh(3 * images.reshape(len(images), -1) - 1)
    return jnp.sum(jnp.sin(8 * flat @ flat.T)) + jnp.sum(jnp.sin(9 * flat))


def _smooth(images: jax.Array) -> jax.Array:
    """A loss that falls along many steps."""
    flat = jnp.tanh(3 * images.reshape(len(images), -1) - 1)
    return jnp.sum(jnp.square(flat @ flat.T))


def _descend(loss, carriers, delta, num_steps, *, box):
    for _ in range(num_steps):
        delta = np.clip(
            delta - STEP * np.sign(np.asarray(jax.grad(loss)(jnp.asarray(delta)))),
            -RADIUS,
            RADIUS,
        )
        if box:
            delta = np.clip(carriers + delta, 0, 1) - carriers
    return delta.astype(np.float32)


def test_images_that_are_not_selected_stay_clean_for_the_others_too():
    selected = np.array([True, True, False, True, False, True])
    batch = _batch(selected)
    carriers = np.asarray(batch.images).reshape(6, *SHAPE)
    mask = selected[:, None, None, None]
    found, losses = perturbation_steps.move_images(
        jnp.zeros((6, *SHAPE)),
        *(batch, jnp.asarray(carriers), _coupled),
        radius=RADIUS,
        step_size=STEP,
        num_steps=3,
    )
    nothing = np.zeros_like(carriers)
    want = _descend(
        lambda d: _coupled(carriers + mask * d), carriers, nothing, 3, box=1
    )
    others_move = _descend(
        lambda d: _coupled(carriers + d), carriers, nothing, 3, box=1
    )
    assert (want != others_move)[selected].any(), "the loss does not couple the images"
    np.testing.assert_allclose(mask * found, mask * want, atol=1e-6)
    assert losses[0] == pytest.approx(float(_coupled(jnp.asarray(carriers))), rel=1e-5)


def test_a_class_moves_against_the_gradient_of_all_its_images():
    selected = np.array([True, True, True, False, True, True])
    batch = _batch(selected)
    carriers = np.asarray(batch.images).reshape(6, *SHAPE)
    labels, mask = np.arange(6) % CLASSES, selected[:, None, None, None]

    def loss(classes):
        return _smooth(jnp.clip(carriers + mask * classes[labels], 0, 1))

    start = np.zeros((CLASSES, *SHAPE), np.float32)
    found, losses = perturbation_steps.move_classes(
        jnp.asarray(start),
        *(batch, jnp.asarray(carriers), _smooth),
        radius=RADIUS,
        step_size=STEP,
        num_steps=4,
    )
    want = _descend(loss, carriers, start, 4, box=False)
    assert (np.abs(want).max((1, 2, 3)) > 2 * STEP).all()
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert losses[0] == pytest.approx(float(loss(start)), rel=1e-5)
    assert loss(want) < loss(start)


@pytest.mark.parametrize("flip", ["joint", "image_only"])
def test_smooth_pictures_change_less(flip):
    # The left half of every picture is smooth.
    images = _images()
    images[:, :, :4] = 128
    generator, config, state = _run(
        images=images, smooth_radius=2.0, epochs=16, schedule="interleaved", flip=flip
    )
    delta = 255 * np.asarray(generator.perturbation(state))[0]
    smooth = np.abs(delta[:, :, :2])
    assert smooth.max() == pytest.approx(2, abs=1e-4)
    assert np.abs(delta[:, :, 6:]).max() > 4
    assert config.radius == 8
