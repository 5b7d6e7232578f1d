"""One mesh axis, two kinds of arrays: copies on every device, and rows split over them.

A step is written for one device's share of the data, with explicit collectives over
the axis ``AXIS``; `parallelize` runs it on a mesh. One device is a mesh of one.
"""

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "data"

_COUNT, _INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


class State(NamedTuple):
    """State of an iterative procedure, separated by where it lives.

    Attributes:
      step: () int32, steps taken so far.
      shared: a pytree with the same value on every device (parameters, optimizer).
      per_example: a pytree whose leaves have the shard axis first, (G, ...), split over
        the devices (perturbations, the order of the data).
    """

    step: jax.Array
    shared: Any
    per_example: Any


# Prefixes of the pytrees above, as `jax.shard_map` takes them.
_STATE_SPECS: Any = (P(), P(), P(AXIS))
STATE_SPEC = State(*_STATE_SPECS)
DATA_SPEC = P(AXIS)
COPIED_SPEC = P()


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-axis mesh over the given devices, by default all there are.

    Args:
      devices: the devices, or None for all devices of all processes.

    Returns:
      A mesh with the single axis ``AXIS``.
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))


def check_shards(num_shards: int, mesh: Mesh) -> None:
    """Checks that shards split over devices.

    Args:
      num_shards: shards of the data.
      mesh: the devices.

    Raises:
      ValueError: if the division leaves a remainder.
    """
    if num_shards % mesh.size:
        raise ValueError(
            f"{num_shards} shards do not split over {mesh.size} devices: the number of "
            "shards must be a multiple of the number of devices"
        )


def place(tree: Any, mesh: Mesh, spec: Any) -> Any:
    """Puts a pytree of host or device arrays on the mesh.

    Args:
      tree: a pytree of arrays.
      mesh: the devices.
      spec: a partition spec, or a prefix of the tree that holds specs.

    Returns:
      The same tree of global arrays.
    """
    return jax.device_put(tree, shardings(mesh, spec, tree))


def run_key(seed: int, purpose: str, mesh: Mesh) -> jax.Array:
    """Makes the key of a run, the same on every device of every process.

    Args:
      seed: any integer.
      purpose: what runs. Runs of one seed share no draws if their purposes differ: a
        victim must not start from the weights of the surrogate.
      mesh: the devices.

    Returns:
      () PRNG key.
    """
    # Keys are the one kind of array that cannot be put on other processes' devices.
    everywhere = NamedSharding(mesh, COPIED_SPEC)
    stream = zlib.crc32(purpose.encode())
    make = lambda: jax.random.fold_in(jax.random.key(seed), stream)  # noqa: E731
    return jax.jit(make, out_shardings=everywhere)()


def shardings(mesh: Mesh, spec: Any, tree: Any) -> Any:
    """Spreads a prefix of partition specs over a whole tree, as named shardings."""
    broadcast = jax.tree.broadcast(spec, tree, is_leaf=lambda leaf: isinstance(leaf, P))
    return jax.tree.map(
        lambda leaf: NamedSharding(mesh, leaf),
        broadcast,
        is_leaf=lambda leaf: isinstance(leaf, P),
    )


def parallelize(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: Any,
    out_specs: Any,
    donate_argnums: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compiles a per-device program with explicit collectives for a mesh.

    Args:
      function: a pure function of one device's shares; its collectives name ``AXIS``.
      mesh: the devices.
      in_specs: partition specs of the arguments (prefixes are enough).
      out_specs: partition specs of the results.
      donate_argnums: arguments whose buffers the results may reuse.

    Returns:
      The jit-compiled function of global arrays.
    """
    # Without replication checking a psum transposes to a psum, as under pmap: the mean
    # over devices of the gradients of replicated parameters is the global gradient.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate_argnums)


def to_host(tree: Any) -> Any:
    """Gathers a pytree of global arrays into NumPy arrays on every process."""

    def fetch(leaf: Any) -> Any:
        split = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        if split and jax.process_count() > 1:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    return jax.tree.map(fetch, tree)


def largest(*values: int) -> list[int]:
    """The largest of each number over all processes, the same in every one.

    Args:
      *values: this process's numbers.

    Returns:
      As many numbers.
    """
    if jax.process_count() == 1:
        return list(values)
    gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return [int(value) for value in np.max(gathered, axis=0)]


def barrier(name: str) -> None:
    """Waits until every process has come here; of a single process nothing is asked.

    Args:
      name: of the place, the same in every process.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def initialize_processes() -> None:
    """Joins a multi-process run where the environment describes one.

    TPU pods, Slurm and others describe themselves; elsewhere set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Call it before
    anything touches a device. On a single host it does nothing.
    """
    if jax.distributed.is_initialized():
        return
    if "JAX_COORDINATOR_ADDRESS" in os.environ:
        missing = [k for k in (_COUNT, _INDEX) if not os.environ.get(k, "").isdigit()]
        if missing:
            raise ValueError(
                f"JAX_COORDINATOR_ADDRESS is set, so {missing[0]} must be a number, "
                f"got {os.environ.get(missing[0])!r}"
            )
        jax.distributed.initialize(
            num_processes=int(os.environ[_COUNT]), process_id=int(os.environ[_INDEX])
        )
        return
    try:
        jax.distributed.initialize()
    except ValueError as error:
        # Without a cluster that JAX knows there is nothing to join.
        if "coordinator_address" not in str(error):
            raise
