"""Data parallelism over one mesh axis: arrays are replicated, or split by rows.

A step is written for one device's share of the data, with explicit collectives over
the axis ``AXIS``; `parallelize` runs it on a mesh. A single device is a mesh of one.
"""

import concurrent.futures
import contextlib
import errno
import numbers
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from miue_jax._checks import shown

AXIS = "data"

# Bytes of an array that `to_first_host` has on every host at once.
_GATHERED = 1 << 26

_Result = TypeVar("_Result")

_ADDRESS = "JAX_COORDINATOR_ADDRESS"
_COUNT, _INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_DEVICES, _BIND = "JAX_LOCAL_DEVICE_IDS", "JAX_COORDINATOR_BIND_ADDRESS"


class State(NamedTuple):
    """State of an iterative procedure, grouped by placement.

    Attributes:
      step: () int32, steps taken so far.
      shared: a pytree that is replicated on every device (parameters, optimizer).
      per_example: a pytree whose leaves have the shard axis first, (G, ...), split over
        the devices (perturbations, the order of the data).

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train.parallel import State
      >>> state = State(step=jnp.int32(0), shared=None, per_example=None)
      >>> int(state._replace(step=state.step + 1).step)
      1
    """

    step: jax.Array
    shared: Any
    per_example: Any


# Prefixes of the pytrees above, for `jax.shard_map`.
_STATE_SPECS: Any = (P(), P(), P(AXIS))
STATE_SPEC = State(*_STATE_SPECS)
DATA_SPEC = P(AXIS)
REPLICATED_SPEC = P()


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-axis mesh.

    Args:
      devices: the devices; None for all devices of all processes.

    Returns:
      A mesh with the single axis ``AXIS``.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.data_mesh().axis_names
      ('data',)
    """
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (AXIS,))


def resolve_num_shards(num_shards: int | None, mesh: Mesh) -> int:
    """Returns the number of shards of a run: as given, or one per device.

    Args:
      num_shards: the setting; None for one shard per device.
      mesh: the devices.

    Returns:
      A positive multiple of the number of devices.

    Raises:
      ValueError: if the setting is not such a multiple.

    Example:
      >>> import jax
      >>> from miue_jax.train import parallel
      >>> mesh = parallel.data_mesh(jax.devices()[:1])
      >>> parallel.resolve_num_shards(None, mesh), parallel.resolve_num_shards(4, mesh)
      (1, 4)
    """
    if num_shards is None:
        return mesh.size
    whole = isinstance(num_shards, numbers.Integral) and type(num_shards) is not bool
    if not whole or num_shards <= 0:
        raise ValueError(
            f"num_shards is {shown(num_shards)}; it must be positive and whole"
        )
    if num_shards % mesh.size:
        raise ValueError(
            f"{num_shards} shards do not split over {mesh.size} devices; set "
            f"num_shards to a multiple of {mesh.size}"
        )
    return int(num_shards)


def place(tree: Any, mesh: Mesh, spec: Any) -> Any:
    """Puts a pytree of host or device arrays on the mesh.

    Every process reads and places the shards of its own devices only; of what is split,
    nothing is sent from one to another.

    Args:
      tree: a pytree of arrays; with several processes, of the same ones in all of them.
      mesh: the devices.
      spec: a partition spec, or a prefix of the tree that holds specs.

    Returns:
      The same tree of global arrays.

    Example:
      >>> import numpy as np
      >>> from miue_jax.train import parallel
      >>> mesh = parallel.data_mesh()
      >>> placed = parallel.place(np.ones(3), mesh, parallel.REPLICATED_SPEC)
      >>> placed.sharding.is_fully_replicated
      True
    """
    placed = shardings(mesh, spec, tree)
    if jax.process_count() == 1:
        return jax.device_put(tree, placed)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_replicated:
            return jax.device_put(leaf, sharding)
        # device_put would compare all of it between all processes.
        return jax.make_array_from_callback(
            np.shape(leaf), sharding, lambda index: leaf[index]
        )

    return jax.tree.map(put, tree, placed)


def run_key(seed: int, purpose: str, mesh: Mesh) -> jax.Array:
    """Returns the PRNG key of a run, replicated over the mesh.

    Args:
      seed: any integer.
      purpose: what the key is for. Keys of one seed and different purposes share no
        draws: a victim must not start from the weights of the surrogate.
      mesh: the devices.

    Returns:
      () PRNG key.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.run_key(0, "victim", parallel.data_mesh()).shape
      ()
    """
    # Typed keys cannot be put on the devices of other processes, so it is computed.
    everywhere = NamedSharding(mesh, REPLICATED_SPEC)
    stream = zlib.crc32(purpose.encode())
    make = lambda: jax.random.fold_in(jax.random.key(seed), stream)  # noqa: E731
    return jax.jit(make, out_shardings=everywhere)()


def shardings(mesh: Mesh, spec: Any, tree: Any) -> Any:
    """Broadcasts a prefix of partition specs over a pytree, as named shardings.

    Args:
      mesh: the devices.
      spec: a partition spec, or a prefix of the tree that holds specs.
      tree: the pytree.

    Returns:
      The same tree of `jax.sharding.NamedSharding`.

    Example:
      >>> from miue_jax.train import parallel
      >>> mesh = parallel.data_mesh()
      >>> placed = parallel.shardings(mesh, parallel.REPLICATED_SPEC, {"w": 0, "b": 0})
      >>> sorted(placed), placed["w"].is_fully_replicated
      (['b', 'w'], True)
    """
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

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import parallel
      >>> mesh = parallel.data_mesh()
      >>> mean = parallel.parallelize(
      ...     lambda rows: jax.lax.pmean(jnp.mean(rows), parallel.AXIS),
      ...     mesh,
      ...     in_specs=parallel.DATA_SPEC,
      ...     out_specs=parallel.REPLICATED_SPEC,
      ... )
      >>> float(mean(jnp.full(4 * mesh.size, 2.0)))
      2.0
    """
    # Without replication checks a psum transposes to a psum, as under pmap: the mean
    # over devices of the gradients of replicated parameters is the global gradient.
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=donate_argnums)


def to_host(tree: Any) -> Any:
    """Gathers a pytree of global arrays into NumPy arrays on every process.

    Args:
      tree: a pytree of arrays.

    Returns:
      The same tree of NumPy arrays.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import parallel
      >>> parallel.to_host({"a": jnp.arange(3)})["a"].tolist()
      [0, 1, 2]
    """

    def fetch(leaf: Any) -> Any:
        split = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
        if split and jax.process_count() > 1:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return jax.device_get(leaf)

    return jax.tree.map(fetch, tree)


def to_first_host(array: Any) -> np.ndarray | None:
    """Gathers an array of all shards in the first process, some rows at a time.

    The others hold no more than these rows. All processes must call it.

    Args:
      array: (G, n, ...), split over the devices by its first axis, or on every host.

    Returns:
      The array in the first process, None in the others.

    Example:
      >>> import jax.numpy as jnp
      >>> from miue_jax.train import parallel
      >>> parallel.to_first_host(jnp.arange(4).reshape(2, 2)).tolist()
      [[0, 1], [2, 3]]
    """
    first = jax.process_index() == 0
    split = isinstance(array, jax.Array) and not array.is_fully_replicated
    if not split or jax.process_count() == 1:
        return jax.device_get(array) if first else None
    found = np.empty(array.shape, array.dtype) if first else None
    at_once = max(1, _GATHERED // max(1, array.nbytes // array.shape[1]))
    for start in range(0, array.shape[1], at_once):
        rows = slice(start, start + at_once)
        part = multihost_utils.process_allgather(array[:, rows], tiled=True)
        if found is not None:
            found[:, rows] = part
    return found


def process_max(*values: int) -> list[int]:
    """Takes the maximum of each number over all processes.

    Args:
      *values: this process's numbers.

    Returns:
      As many numbers, the same in every process.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.process_max(3, 1)
      [3, 1]
    """
    if jax.process_count() == 1:
        return list(values)
    gathered = multihost_utils.process_allgather(np.asarray(values, np.int32))
    return [int(value) for value in np.max(gathered, axis=0)]


def gather_text(text: str) -> list[str]:
    """Collects a string of every process.

    Args:
      text: this process's.

    Returns:
      All of them, by the index of the process, the same in every process.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.gather_text("seed 0")
      ['seed 0']
    """
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray([data.size], np.int32))
    # One row too many, since nothing can be gathered of empty strings alone.
    row = np.zeros(int(np.max(sizes)) + 1, np.uint8)
    row[: data.size] = data
    rows = multihost_utils.process_allgather(row)
    sizes = np.ravel(sizes)
    return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Runs a block in every process; where it fails in one, all of them raise.

    Otherwise the others would wait for it at their next collective operation.

    Yields:
      Nothing.

    Raises:
      ValueError: with the message of the process in which the block failed.

    Example:
      >>> from miue_jax.train import parallel
      >>> with parallel.together():
      ...     size = len("data of this process")
      >>> size
      20
    """
    failure = None
    try:
        yield
    except (ValueError, OSError) as error:
        failure = error
    reasons = gather_text("" if failure is None else str(failure) or repr(failure))
    if failure is not None:
        raise failure
    _raise_first(reasons)


# Seconds between two looks at whether all processes are done.
_SECONDS_A_LOOK = 0.5


def in_all(function: Callable[[], _Result]) -> _Result:
    """Runs a function in every process, however much longer it takes in one of them.

    The others meet regularly meanwhile: a collective operation does not wait for ever,
    and on CPUs the first of all only half a minute.

    Args:
      function: takes no part in collective operations.

    Returns:
      What it returned in this process.

    Raises:
      Exception: what it raised in this process.
      ValueError: with the message of the process in which it raised one.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.in_all(lambda: len("data of this process"))
      20
    """
    if jax.process_count() == 1:
        return function()
    future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    # Of a pool, the interpreter would wait for it after an interrupt.
    threading.Thread(target=work, daemon=True).start()
    waiting = 1
    while waiting:
        concurrent.futures.wait([future], _SECONDS_A_LOOK)
        (waiting,) = process_max(int(not future.done()))
    failure = future.exception()
    reasons = gather_text("" if failure is None else str(failure) or repr(failure))
    if failure is None:
        _raise_first(reasons)
    return future.result()


def _raise_first(reasons: Sequence[str]) -> None:
    for index, reason in enumerate(reasons):
        if reason:
            raise ValueError(f"process {index}: {reason}")


def own_shards(num_shards: int, mesh: Mesh) -> list[int]:
    """Returns the shards that lie on the devices of this process.

    Args:
      num_shards: G, a multiple of the number of devices.
      mesh: the devices.

    Returns:
      Their numbers, ascending.

    Example:
      >>> import jax
      >>> from miue_jax.train import parallel
      >>> parallel.own_shards(4, parallel.data_mesh(jax.devices()[:1]))
      [0, 1, 2, 3]
    """
    split = NamedSharding(mesh, DATA_SPEC)
    found = split.addressable_devices_indices_map((num_shards,)).values()
    every = range(num_shards)
    return sorted(shard for index in found if index for shard in every[index[0]])


def barrier(name: str) -> None:
    """Waits until every process has reached this point.

    Args:
      name: name of the point, the same in every process.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.barrier("results written")
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def initialize_processes(
    *, heartbeat_timeout: int = 100, join_timeout: int = 300
) -> None:
    """Joins a multi-process run if the environment describes one.

    TPU pods, Slurm and others describe themselves; elsewhere set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, all three of them,
    which hold before what is found out. Call it before anything touches a device. On a
    single host it does nothing.

    Args:
      heartbeat_timeout: seconds without a sign of life after which a process counts as
        lost, and the others end.
      join_timeout: seconds within which all processes must have come. JAX ends a
        process (SIGABRT) that waits for longer.

    Raises:
      ValueError: if one of these variables is missing or not allowed, or JAX cannot
        start.

    Example:
      >>> from miue_jax.train import parallel
      >>> parallel.initialize_processes()  # doctest: +SKIP
    """
    if jax.distributed.is_initialized():
        return
    timeouts = {
        "heartbeat_timeout_seconds": heartbeat_timeout,
        "initialization_timeout": join_timeout,
    }
    try:
        if any(name in os.environ for name in (_ADDRESS, _COUNT, _INDEX)):
            count, index = _given_process()
            jax.distributed.initialize(
                num_processes=count,
                process_id=index,
                # What Slurm says of its own processes is not about these.
                cluster_detection_method="deactivate",
                **timeouts,
            )
            return
        try:
            jax.distributed.initialize(**timeouts)
        except ValueError as error:
            # JAX detects no cluster, so there is nothing to join.
            if "coordinator_address" not in str(error):
                raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"this process cannot join a run: {reason}") from error


def _given_process() -> tuple[int, int]:
    """The number of processes and the index of this one, from the environment."""
    values = {name: os.environ.get(name) for name in (_ADDRESS, _COUNT, _INDEX)}
    given = next(name for name, value in values.items() if value is not None)
    for name in (_COUNT, _INDEX):
        if not _digits(values[name] or ""):
            raise ValueError(
                f"{given} is set, so {name} must be a number, got {shown(values[name])}"
            )
    count, index = int(values[_COUNT] or 0), int(values[_INDEX] or 0)
    if count < 1:
        raise ValueError(f"{_COUNT} is {count}; allowed: numbers from 1 on")
    if index >= count:
        raise ValueError(
            f"{_INDEX} is {index}; allowed: numbers below {_COUNT}, {count}"
        )
    host, _, port = (values[_ADDRESS] or "").rpartition(":")
    if not host or not _digits(port) or not 0 < int(port) < 2**16:
        raise ValueError(
            f"{_ADDRESS} is {shown(values[_ADDRESS])}; allowed: HOST:PORT, the same in "
            "all processes"
        )
    devices = os.environ.get(_DEVICES, "")
    if devices and not all(map(_digits, devices.split(","))):
        raise ValueError(
            f"{_DEVICES} is {shown(devices)}; allowed: numbers with commas between them"
        )
    if index == 0 and not os.environ.get(_BIND):
        _check_free(int(port))
    return count, index


def _check_free(port: int) -> None:
    """Refuses a port that process 0 cannot listen on: JAX would crash (SIGSEGV)."""
    # Without IPv6 nothing is said: the runtime then takes another way.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as found:
        # As the runtime does: of IPv4, too, and of one that was just given up.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            found.bind(("::", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ValueError(
                f"{_ADDRESS}: process 0 cannot listen on port {port} "
                f"({str(error.strerror).lower()}); allowed: a free one"
            ) from error


def _digits(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) < 10
