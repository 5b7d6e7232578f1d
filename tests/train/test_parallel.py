"""Placement on a mesh and the checks that come before any compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from miue_jax.train import parallel
from miue_jax.train.parallel import State


def test_prefix_specs_reach_every_leaf():
    mesh = parallel.data_mesh()
    state = State(
        np.int32(0), {"w": np.ones(3), "none": None}, (np.zeros((8, 2)), np.ones(16))
    )
    placed = parallel.place(state, mesh, parallel.STATE_SPEC)
    assert placed.shared["w"].sharding.is_fully_replicated
    assert placed.per_example[0].sharding.spec == P("data")
    assert len(placed.per_example[1].addressable_shards) == mesh.size
    np.testing.assert_array_equal(parallel.to_host(placed).per_example[1], np.ones(16))


def test_a_parallel_mean_gradient_is_the_global_one():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)

    def gradient(weights, x):
        grads = jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(weights)
        return jax.lax.pmean(grads, parallel.AXIS)

    mapped = parallel.parallelize(
        gradient,
        parallel.data_mesh(),
        in_specs=(parallel.REPLICATED_SPEC, parallel.DATA_SPEC),
        out_specs=parallel.REPLICATED_SPEC,
    )
    weights = jnp.arange(3.0)
    expected = jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(weights)
    np.testing.assert_allclose(mapped(weights, x), expected, rtol=1e-5)


def test_shards_that_do_not_split_over_the_devices_are_refused():
    mesh = parallel.data_mesh()
    with pytest.raises(ValueError, match=r"4 shards do not .*set num_shards"):
        parallel.resolve_num_shards(4, mesh)
    assert parallel.resolve_num_shards(16, mesh) == 16


def test_the_number_of_shards_is_that_of_devices_unless_given():
    mesh = parallel.data_mesh()
    assert parallel.resolve_num_shards(None, mesh) == mesh.size
    for wrong in (0, -1, "two", 8.0, True):
        with pytest.raises(ValueError, match=f"num_shards is {wrong!r}; it must be"):
            parallel.resolve_num_shards(wrong, mesh)


def test_runs_of_one_seed_for_other_purposes_share_no_draws():
    mesh = parallel.data_mesh()
    keys = [parallel.run_key(0, name, mesh) for name in ("generator", "victim")]
    keys += [parallel.run_key(1, "victim", mesh), parallel.run_key(0, "victim", mesh)]
    draws = [float(jax.random.uniform(key)) for key in keys]
    assert len(set(draws[:3])) == 3
    assert draws[1] == draws[3]
    assert keys[0].sharding.is_fully_replicated


def test_where_one_process_fails_all_raise(monkeypatch):
    monkeypatch.setattr(parallel, "gather_text", lambda own: [own, "no such file"])
    with (
        pytest.raises(ValueError, match=r"^process 1: no such file$"),
        parallel.together(),
    ):
        pass
    # The one that fails raises its own error.
    with pytest.raises(OSError, match="disk"), parallel.together():
        raise OSError("disk")


def test_all_wait_for_the_last_one_and_raise_where_it_fails(monkeypatch):
    looks = []

    def busy(mine):
        looks.append(mine)
        return [int(mine or len(looks) < 4)]  # the other one takes four looks

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "process_max", busy)
    monkeypatch.setattr(parallel, "gather_text", lambda own: [own, ""])
    assert parallel.in_all(lambda: 3) == 3
    assert len(looks) == 4
    monkeypatch.setattr(parallel, "gather_text", lambda own: [own, "no such file"])
    with pytest.raises(ValueError, match=r"^process 1: no such file$"):
        parallel.in_all(lambda: 3)
    # The one that fails raises its own error, whatever it is.
    with pytest.raises(ZeroDivisionError):
        parallel.in_all(lambda: 1 // 0)


def test_shards_of_one_process_are_all_of_them():
    mesh = parallel.data_mesh(jax.devices()[:4])
    assert parallel.own_shards(8, mesh) == list(range(8))


@pytest.mark.parametrize(
    ("address", "count", "index", "message"),
    [
        ("nonsense", "2", "0", "ADDRESS is 'nonsense'; allowed: HOST:PORT"),
        ("", "2", "0", "ADDRESS is ''; allowed: HOST:PORT"),
        ("host:99999", "2", "0", "ADDRESS is 'host:99999'"),
        ("host:x", "2", "0", "ADDRESS is 'host:x'"),
        ("host:1", "2", "2", "PROCESS_ID is 2; allowed: numbers below"),
        ("host:1", "9" * 5000, "0", "NUM_PROCESSES must be a number"),
        ("host:1", "-1", "0", "NUM_PROCESSES must be a number"),
        ("host:1", "0", "0", "NUM_PROCESSES is 0; allowed: numbers from 1 on"),
        ("host:1", "2", None, "PROCESS_ID must be a number, got None"),
        ("host:1", None, "0", "NUM_PROCESSES must be a number, got None"),
        (None, "2", "0", "ADDRESS is None; allowed: HOST:PORT"),
        (None, "2", None, "NUM_PROCESSES is set, so JAX_PROCESS_ID must be"),
        (None, None, "1", "PROCESS_ID is set, so JAX_NUM_PROCESSES must be"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(
    monkeypatch, address, count, index, message
):
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    for name, value in zip(names, (address, count, index), strict=True):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        parallel.initialize_processes()


def test_devices_that_are_no_numbers_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,x")
    with pytest.raises(ValueError, match="DEVICE_IDS is '0,x'; allowed: numbers with"):
        parallel.initialize_processes()
