"""Byte-equal results on 1, 2, 4 and 8 devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from miue_jax import generators, victims
from miue_jax.train import device_invariant, loop, parallel, sampling
from miue_jax.train.parallel import AXIS, DATA_SPEC, REPLICATED_SPEC

SHARDS = 8


def _mesh(devices):
    return parallel.data_mesh(jax.devices()[:devices])


def _bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def _on(devices, function, *arguments, in_specs, out_specs):
    compiled = device_invariant.parallelize(
        function, _mesh(devices), in_specs=in_specs, out_specs=out_specs
    )
    return jax.device_get(compiled(*arguments))


def _loss(w, x, axis):
    """Batch normalization and a similarity of the global batch."""
    y = jnp.tanh(x @ w)
    mean, square = jnp.mean(y, 0), jnp.mean(y * y, 0)
    if axis:
        mean, square = lax.pmean((mean, square), axis)
    z = (y - mean) * lax.rsqrt(square - mean**2 + 1e-5)
    columns = lax.all_gather(z, axis, tiled=True) if axis else z
    loss = jnp.mean(jax.nn.logsumexp(z @ columns.T, axis=1))
    return lax.pmean(loss, axis) if axis else loss


def _train(w, x, axis):
    def step(carry, _):
        w, seen = carry
        loss, gradient = jax.value_and_grad(_loss)(w, x.reshape(-1, x.shape[-1]), axis)
        if axis:
            gradient = lax.pmean(gradient, axis)
        seen = seen + loss * (lax.axis_index(axis) if axis else 0)
        return (w - 0.1 * gradient, seen), loss

    (w, seen), losses = lax.scan(step, (w, jnp.zeros(())), None, length=3)
    return w, losses, seen[None]


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(0).normal
    w, x = draw(size=(5, 7)), draw(size=(SHARDS, 16, 5))
    return w.astype(np.float32), x.astype(np.float32)


def test_training_is_equal_on_all_numbers_of_devices_and_right(rows):
    specs = {
        "in_specs": (REPLICATED_SPEC, DATA_SPEC),
        "out_specs": (REPLICATED_SPEC, REPLICATED_SPEC, DATA_SPEC),
    }
    step = lambda w, x: _train(w, x, AXIS)  # noqa: E731
    results = {n: _on(n, step, *rows, **specs) for n in (1, 2, 4, 8)}
    for devices, result in results.items():
        assert _bytes(result) == _bytes(results[1]), f"{devices} devices differ"
    w, losses, seen = results[1]
    expected, expected_losses, _ = _train(*rows, None)
    np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(seen, np.arange(SHARDS) * losses.sum(), rtol=1e-5)


def test_every_collective_is_that_of_the_axis(rows):
    _, x = rows

    def function(x):
        x = x[0]
        gathered = lax.all_gather(x, AXIS, axis=1)
        scattered = lax.psum_scatter(gathered, AXIS, scatter_dimension=1)
        side_by_side = lax.all_gather(x, AXIS, axis=1, tiled=True)
        part = lax.psum_scatter(side_by_side, AXIS, scatter_dimension=1, tiled=True)
        return (
            (lax.psum(x, AXIS), lax.pmax(x, AXIS), lax.pmin(x, AXIS), gathered),
            (side_by_side, lax.psum(jnp.float32(3), AXIS)),
            (scattered[None], part[None], lax.axis_index(AXIS)[None]),
        )

    specs = {
        "in_specs": DATA_SPEC,
        "out_specs": (REPLICATED_SPEC, REPLICATED_SPEC, DATA_SPEC),
    }
    one, four = (_on(n, function, x, **specs) for n in (1, 4))
    assert _bytes(one) == _bytes(four)
    (total, highest, lowest, gathered), (beside, constant), own = one
    np.testing.assert_allclose(total, x.sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(highest, x.max(0))
    np.testing.assert_array_equal(lowest, x.min(0))
    np.testing.assert_array_equal(gathered, x.swapaxes(0, 1))
    np.testing.assert_array_equal(beside, x.swapaxes(0, 1).reshape(16, -1))
    assert constant == 3 * SHARDS
    for scattered in own[:2]:
        np.testing.assert_allclose(scattered, SHARDS * x, rtol=1e-5)
    np.testing.assert_array_equal(own[2], np.arange(SHARDS))


def test_branches_loops_and_keys_are_those_of_each_shard(rows):
    _, x = rows

    def function(x):
        index = lax.axis_index(AXIS)
        key = lax.cond(
            x[0, 0, 0] > 0, lambda: jax.random.key(1), lambda: jax.random.key(2)
        )
        halved = lax.while_loop(lambda v: v > 1, lambda v: v / 2, index + 1.0)
        total = lax.fori_loop(
            0, 3, lambda i, t: t + lax.psum(x[0, i], AXIS), jnp.zeros(5)
        )
        return (jax.random.normal(key)[None], halved[None]), total

    specs = {"in_specs": DATA_SPEC, "out_specs": (DATA_SPEC, REPLICATED_SPEC)}
    one, eight = (_on(n, function, x, **specs) for n in (1, 8))
    assert _bytes(one) == _bytes(eight)
    (draws, halved), total = one
    of_key = [float(jax.random.normal(jax.random.key(seed))) for seed in (1, 2)]
    np.testing.assert_allclose(draws, np.where(x[:, 0, 0] > 0, *of_key), rtol=1e-5)
    np.testing.assert_array_equal(halved[:5], [1, 1, 0.75, 1, 0.625])
    np.testing.assert_allclose(total, x[:, :3].sum((0, 1)), rtol=1e-4, atol=1e-5)


def test_a_number_of_shards_that_is_no_power_of_two_is_as_good():
    x = np.random.default_rng(0).normal(size=(12, 9)).astype(np.float32)
    function = lambda x: lax.psum(jnp.sin(x[0]), AXIS)  # noqa: E731
    specs = {"in_specs": DATA_SPEC, "out_specs": REPLICATED_SPEC}
    results = [_bytes(_on(n, function, x, **specs)) for n in (1, 2, 3, 4, 6)]
    assert all(result == results[0] for result in results)


def test_a_function_of_whole_arrays_keeps_own_rows(rows):
    w, x = rows
    compute = lambda w, x: (jnp.cumsum(x, axis=0), jnp.mean(x) * w)  # noqa: E731
    results = [
        jax.device_get(
            device_invariant.of_whole_arrays(
                compute,
                _mesh(devices),
                in_specs=(REPLICATED_SPEC, DATA_SPEC),
                out_specs=(DATA_SPEC, REPLICATED_SPEC),
            )(w, x)
        )
        for devices in (1, 8)
    ]
    assert _bytes(results[0]) == _bytes(results[1])
    np.testing.assert_allclose(
        results[0][0], np.cumsum(x, axis=0), rtol=1e-4, atol=1e-4
    )


def test_results_that_differ_between_shards_are_refused(rows):
    with pytest.raises(ValueError, match=r"result \['mean'\] must be the same on all"):
        _on(
            *(2, lambda x: {"mean": jnp.mean(x)}, rows[1]),
            in_specs=DATA_SPEC,
            out_specs=REPLICATED_SPEC,
        )


# Networks with batch normalization: the shards' training programs need each other.

_NET = {"model": "resnet10", "width": 4, "batch_size": 16}
_GENERATORS = {
    "mi_ue/interleaved": {"epochs": 1},
    "error_minimizing/published": {
        **{"epochs": 2, "batches_per_epoch": 1, "batch_size": 16},
        **{"perturbation_batch_size": 32, "pgd_steps": 2},
    },
}


def _images(size):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (size, 8, 8, 3)).astype(np.uint8)
    return images, (np.arange(size) % 4).astype(np.int32)


def _run(devices, start, step, evaluate=None, *, stops):
    mesh = _mesh(devices)
    images, labels = _images(45)  # some shards have a row of padding
    shards = sampling.deal(images, labels, SHARDS, selected=labels != 3)
    data = parallel.place(shards, mesh, DATA_SPEC)
    key = parallel.run_key(0, "test", mesh)
    state = loop.start(start, mesh, device_invariant=True)(key, data)
    advance = loop.advance(step, mesh, device_invariant=True)
    metrics = {}
    for stop in stops:
        state, metrics = advance(key, state, data, stop)
    found = {} if evaluate is None else evaluate(mesh, state, data)
    return jax.device_get((state, metrics, found))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_GENERATORS))
def test_a_surrogate_with_batch_normalization_is_equal(name):
    spec = generators.DataSpec(
        **{"num_examples": 45, "num_classes": 4, "image_shape": (8, 8, 3)},
        num_shards=SHARDS,
        axis_name=AXIS,
    )
    chosen = generators.spec(name, **{**_NET, **_GENERATORS[name]})
    config = generators.clip_batches(chosen.config, spec)
    built = generators.create(chosen.name, config, spec)
    results = {
        devices: _run(devices, built.init, built.step, stops=stops)
        for devices, stops in ((1, (6,)), (2, (2, 6)), (8, (6,)))
    }
    moved = built.perturbation(results[1][0])
    assert np.mean(np.asarray(moved) != 0) > 0.1
    for devices, (state, metrics, _) in results.items():
        assert _bytes(state) == _bytes(results[1][0]), f"{devices} devices differ"
        if devices != 2:  # whose last call had fewer steps
            assert _bytes(metrics) == _bytes(results[1][1])


@pytest.mark.slow
def test_a_victim_with_batch_normalization_is_equal():
    config = victims.preset("quick", **{**_NET, "epochs": 2})
    victim = victims.victim(
        config,
        **{"num_examples": 45, "num_classes": 4, "num_shards": SHARDS},
        axis_name=AXIS,
    )

    def evaluate(mesh, state, data):
        compiled = loop.evaluation(victim.evaluate, mesh, device_invariant=True)
        return compiled(state, data)

    results = [
        _run(n, victim.init, victim.step, evaluate, stops=(victim.num_steps,))
        for n in (1, 8)
    ]
    assert _bytes(results[0]) == _bytes(results[1])
