"""Gradients of several checkpoints, against the sums written out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.generators.checkpoint_ensemble import Steps, descend, save

RADIUS, STEP = 0.04, 0.01


def _problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, and quadratic costs: scales and centers of three checkpoints."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.0, 1.0, (3, 4, 4, 1)).astype(np.float32)
    images[0, 0] = 0.0  # where the box ends
    scales = rng.uniform(0.2, 4, (3, 3, 4, 4, 1)).astype(np.float32)
    # So near that a step matters to the gradients.
    centers = images + rng.normal(0, 2 * STEP, scales.shape).astype(np.float32)
    return images, scales, centers


def _cost(one, images):
    scale, center = one
    return jnp.sum(scale * jnp.square(images - center)) / 2


def _gradient(problem, k: int, delta: np.ndarray) -> np.ndarray:
    images, scales, centers = problem
    return scales[k] * (images + delta - centers[k])


def _moved(images: np.ndarray, delta: np.ndarray, direction: np.ndarray) -> np.ndarray:
    delta = np.clip(delta - STEP * np.sign(direction), -RADIUS, RADIUS)
    return np.clip(images + delta, 0, 1) - images


def _compiled(problem, steps: Steps, inner_stack=None):
    images, *stack = map(jnp.asarray, problem)
    run = jax.jit(
        lambda key: descend(key, _cost, stack, images, steps, inner_stack=inner_stack)
    )
    return lambda seed: map(np.asarray, run(jax.random.key(seed)))


def test_a_step_goes_against_the_mean_gradient():
    problem = _problem()
    images = problem[0]
    found, loss = _compiled(problem, Steps(RADIUS, STEP, 6, 0))(0)
    want = np.zeros_like(images)
    for _ in range(6):
        last = want
        each = [_gradient(problem, k, want) for k in range(3)]
        want = _moved(images, want, np.mean(each, 0))
    np.testing.assert_allclose(found, want, atol=1e-6)
    single = _moved(images, np.zeros_like(images), _gradient(problem, 0, 0 * want))
    assert (np.sign(single) != np.sign(want)).any(), "one checkpoint would do as well"
    _, scales, centers = problem
    losses = [float(_cost((scales[k], centers[k]), images + last)) for k in range(3)]
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("inner_centers", ["own", "last"])
def test_variance_reduction_sums_what_was_drawn(inner_centers):
    problem = _problem()
    images, scales, centers = problem
    # What the inner steps see may be other than what the mean is of.
    if inner_centers == "last":
        centers = np.broadcast_to(centers[-1:], centers.shape)
    seen_inside = (images, scales, centers)
    wanted = []
    for drawn in itertools.product(range(3), repeat=2):
        delta = np.zeros_like(images)
        each = [_gradient(problem, k, delta) for k in range(3)]
        inner, total = delta, np.zeros_like(images)
        for k in drawn:
            total += _gradient(seen_inside, k, inner) - (each[k] - np.mean(each, 0))
            inner = _moved(images, inner, total)
        wanted.append((total, _moved(images, delta, total)))
    inner_stack = [jnp.asarray(scales), jnp.asarray(centers)]
    run = _compiled(problem, Steps(RADIUS, STEP, 1, 2), inner_stack)
    seen = set()
    for seed in range(12):
        found, _ = run(seed)
        # Where a sum is 0 up to rounding its sign means nothing.
        fits = [
            i
            for i, (total, want) in enumerate(wanted)
            if (np.abs(found - want) < 1e-6)[np.abs(total) > 1e-5].all()
        ]
        assert fits, "no draws explain this step"
        seen.add(fits[0])
    if inner_centers == "own":
        # The first sum is the mean gradient whatever is drawn: three ways are left.
        assert len(seen) == 3, f"12 seeds draw {seen}"
    else:
        assert len(seen) > 3, f"12 seeds draw {seen}"


def test_inner_steps_start_again_in_every_step():
    images, scales, centers = _problem()
    problem = (images, scales[:1], centers[:1])
    found, _ = _compiled(problem, Steps(RADIUS, STEP, 3, 2))(0)
    delta = np.zeros_like(images)
    for _ in range(3):
        inner, total = delta, np.zeros_like(images)
        for _ in range(2):
            total = total + _gradient(problem, 0, inner)
            inner = _moved(images, inner, total)
        delta = _moved(images, delta, total)
    np.testing.assert_allclose(found, delta, atol=1e-6)


def test_checkpoints_are_saved_in_their_place_when_due():
    stack = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)}
    one = {"a": jnp.ones(2), "b": jnp.float32(5)}
    after = save(stack, jnp.int32(1), one, jnp.bool_(True))
    np.testing.assert_array_equal(after["a"], [[0, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(after["b"], [0, 5, 0])
    kept = save(after, jnp.int32(2), one, jnp.bool_(False))
    jax.tree.map(np.testing.assert_array_equal, kept, after)
