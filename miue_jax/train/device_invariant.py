"""Results that are equal to the last bit on any number of devices of one kind.

A compiler rounds the sum over 64 images otherwise than two sums over 32, and operations
that it has fused otherwise than those that it has not. So that it does not matter over
which devices G shards are split, a function is traced for one shard (`shard_program`)
and its operations are sorted (`shard_schedule`):

- what differs between shards is computed shard by shard, in loops whose body is the
  same program on every device;
- sums over the shards add neighbors pairwise, in an order that only G decides;
- what is the same on all shards is computed once per device, by the same program.

Nothing must be fused across these parts, and compilers look through optimization
barriers and loops of one iteration. Therefore the number of iterations is an argument
of the compiled program, buffers have a row more than they need, and what is the same on
all shards is a branch of which the compiler cannot know that it is always taken.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from miue_jax.train import shard_program, shard_schedule
from miue_jax.train.parallel import AXIS, DATA_SPEC, REPLICATED_SPEC, STATE_SPEC
from miue_jax.train.shard_program import Context, Known, Operation, Program, Value
from miue_jax.train.shard_schedule import Group, Schedule


def parallelize(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    in_specs: Any,
    out_specs: Any,
    donate_argnums: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Compiles a per-device program as `parallel.parallelize` does, invariantly.

    The function is called as if every shard had a device of its own: with arrays (1,
    ...) of each argument that is split, and an axis of G devices.

    Args:
      function: a pure function of one device's shares; its collectives name ``AXIS``.
      mesh: the devices.
      in_specs: partition specs of the arguments (prefixes are enough).
      out_specs: partition specs of the results.
      donate_argnums: arguments whose buffers the results may reuse.

    Returns:
      The jit-compiled function of global arrays, those that are split (G, ...). When
      traced it raises a ValueError if a result that is not split may differ between
      shards, or if the function uses a collective other than sums, means, maxima,
      minima and `lax.all_gather` over all shards, and their gradients.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import device_invariant, parallel
      >>> mean = device_invariant.parallelize(
      ...     lambda rows: jax.lax.pmean(jnp.mean(rows), parallel.AXIS),
      ...     parallel.data_mesh(jax.devices()[:1]),
      ...     in_specs=parallel.DATA_SPEC,
      ...     out_specs=parallel.REPLICATED_SPEC,
      ... )
      >>> float(mean(jnp.arange(8.0)))
      3.5
    """

    def whole(count: jax.Array, *arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        specs = _leaf_specs(in_specs, arguments)
        num_shards = _num_shards(leaves, specs)
        context = Context(AXIS, num_shards, mesh.devices.flat[0].platform, {})
        program, results = shard_program.trace(
            lambda *leaves: function(*jax.tree.unflatten(tree, leaves)),
            [_of_one_shard(*pair) for pair in zip(leaves, specs, strict=True)],
            context,
        )
        result_specs = _leaf_specs(out_specs, results)
        named, result_tree = jax.tree.flatten_with_path(results)
        names = [jax.tree_util.keystr(path) for path, _ in named]

        def of_device(count: jax.Array, *leaves: Any) -> list[Any]:
            device = _Device(context, num_shards // mesh.size, count)
            given = [
                _Argument(
                    leaf[:, None] if spec == DATA_SPEC else leaf, spec == DATA_SPEC
                )
                for leaf, spec in zip(leaves, specs, strict=True)
            ]
            outputs = _evaluate(device, program, given)
            return [
                _result(device, *output)
                for output in zip(outputs, result_specs, names, strict=True)
            ]

        mapped = _on_mesh(of_device, mesh, specs, result_specs)
        return jax.tree.unflatten(result_tree, mapped(count, *leaves))

    numbers = (donate_argnums,) if isinstance(donate_argnums, int) else donate_argnums
    compiled = jax.jit(whole, donate_argnums=tuple(n + 1 for n in numbers))

    def run(*arguments: Any) -> Any:
        specs = _leaf_specs(in_specs, arguments)
        local = _num_shards(jax.tree.leaves(arguments), specs) // mesh.size
        return compiled(np.int32(local), *arguments)

    return run


def of_whole_arrays(
    function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Compiles a function of whole arrays; every device computes all of it.

    Args:
      function: a pure function of global arrays.
      mesh: the devices.
      in_specs: partition specs of the arguments (prefixes are enough).
      out_specs: partition specs of the results.

    Returns:
      The jit-compiled function of global arrays.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from miue_jax.train import device_invariant, parallel
      >>> center = device_invariant.of_whole_arrays(
      ...     lambda rows: rows - jnp.mean(rows),
      ...     parallel.data_mesh(jax.devices()[:1]),
      ...     in_specs=parallel.DATA_SPEC,
      ...     out_specs=parallel.DATA_SPEC,
      ... )
      >>> center(jnp.arange(3.0)).tolist()
      [-1.0, 0.0, 1.0]
    """

    def whole(count: jax.Array, *arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten(arguments)
        specs = _leaf_specs(in_specs, arguments)
        results = jax.eval_shape(function, *arguments)
        result_specs = _leaf_specs(out_specs, results)

        def compute(*leaves: Any) -> list[Any]:
            return jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))

        def own(result: jax.Array) -> jax.Array:
            rows = len(result) // mesh.size
            first = lax.axis_index(AXIS) * rows
            return lax.dynamic_slice_in_dim(result, first, rows)

        def of_device(count: jax.Array, *leaves: Any) -> list[Any]:
            gathered = [
                _gather(leaf) if spec == DATA_SPEC else leaf
                for leaf, spec in zip(leaves, specs, strict=True)
            ]
            return [
                own(result) if spec == DATA_SPEC else result
                for result, spec in zip(
                    _alone(count, compute, *gathered), result_specs, strict=True
                )
            ]

        mapped = _on_mesh(of_device, mesh, specs, result_specs)
        return jax.tree.unflatten(jax.tree.structure(results), mapped(count, *leaves))

    compiled = jax.jit(whole)
    return lambda *arguments: compiled(np.int32(1), *arguments)


def check(step: Callable[..., Any], mesh: Mesh, state: Any, data: Any) -> None:
    """Checks that a step can be compiled invariantly.

    Args:
      step: (key, state, data) -> (state, metrics), for one device's share.
      mesh: the devices.
      state: a `parallel.State`, or its shapes.
      data: the data, dealt to G shards, or their shapes.

    Raises:
      ValueError: if it cannot, see `parallelize`.

    Example:
      >>> import jax, jax.numpy as jnp, numpy as np
      >>> from miue_jax.train import device_invariant, metrics, parallel, sampling
      >>> data = sampling.deal(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2, 2)
      >>> def step(key, state, data):
      ...     return state, {"label": metrics.mean_of(jnp.mean(data.labels))}
      >>> state = parallel.State(jnp.int32(0), None, None)
      >>> mesh = parallel.data_mesh(jax.devices()[:1])
      >>> try:
      ...     device_invariant.check(step, mesh, state, data)
      ... except ValueError as error:
      ...     str(error)[:51]
      "with device_invariant the result [1]['label'].total"
    """
    compiled = parallelize(
        step,
        mesh,
        in_specs=(REPLICATED_SPEC, STATE_SPEC, DATA_SPEC),
        out_specs=(STATE_SPEC, REPLICATED_SPEC),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(compiled, key, state, data)


def _leaf_specs(specs: Any, tree: Any) -> list[P]:
    is_spec = lambda leaf: isinstance(leaf, P)  # noqa: E731
    broadcast = jax.tree.broadcast(specs, tree, is_leaf=is_spec)
    return jax.tree.leaves(broadcast, is_leaf=is_spec)


def _num_shards(leaves: Sequence[Any], specs: Sequence[P]) -> int:
    pairs = zip(leaves, specs, strict=True)
    sizes = {leaf.shape[0] for leaf, spec in pairs if spec == DATA_SPEC}
    if len(sizes) != 1:
        raise ValueError(
            "with device_invariant, arrays that are split must have one number of "
            f"shards as their first size, got {sorted(sizes)}"
        )
    return sizes.pop()


def _of_one_shard(leaf: Any, spec: P) -> jax.ShapeDtypeStruct:
    shape = (1, *leaf.shape[1:]) if spec == DATA_SPEC else leaf.shape
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _on_mesh(
    function: Callable[..., Any], mesh: Mesh, specs: list[P], result_specs: list[P]
) -> Callable[..., Any]:
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(REPLICATED_SPEC, *specs),
        out_specs=result_specs,
        check_vma=False,
    )


# A program on one device.


class _Device(NamedTuple):
    context: Context
    local: int  # g, the shards of this device
    count: jax.Array  # () int32, g too, but unknown to the compiler


class _Argument(NamedTuple):
    array: Any  # the value; (g, ...), one for each shard of the device, if it differs
    differs: bool


def _result(device: _Device, output: _Argument, spec: P, name: str) -> Any:
    if spec == DATA_SPEC:
        array = _stacked(device, output)
        return array.reshape(-1, *array.shape[2:])
    if output.differs:
        raise ValueError(
            f"with device_invariant the result {name} must be the same on all shards, "
            "such as a mean over them"
        )
    return output.array


def _stacked(device: _Device, argument: _Argument) -> Any:
    if argument.differs:
        return argument.array
    array = jnp.asarray(argument.array)
    return jnp.broadcast_to(array, (device.local, *array.shape))


def _evaluate(
    device: _Device, program: Program, arguments: Sequence[_Argument]
) -> list[_Argument]:
    """Computes a program for the shards of a device."""
    flags = [argument.differs for argument in arguments]
    schedule = shard_schedule.schedule(program, flags, device.context)
    values = _Values(device, schedule)
    values.add(program.inputs, [argument.array for argument in arguments])
    for group in schedule.groups:
        _KINDS[group.kind](values, group)
    return [values.get(atom) for atom in program.outputs]


class _Values:
    """The values of a program on one device, in the forms in which they are used."""

    def __init__(self, device: _Device, schedule: Schedule) -> None:
        self.device, self.schedule = device, schedule
        self.arrays: dict[Value, Any] = {}  # (g, ...) where they differ
        self.buffers: dict[Value, _Buffer] = {}

    def add(self, values: Sequence[Value], arrays: Sequence[Any]) -> None:
        self.arrays |= zip(values, arrays, strict=True)

    def get(self, atom: Any) -> _Argument:
        if isinstance(atom, Known):
            return _Argument(atom.aval, False)
        if atom not in self.arrays:
            if atom in self.buffers:
                self.add([atom], [self.buffers[atom].stacked(self.device.local)])
            else:
                _move(self, self.schedule.again[atom])
        return _Argument(self.arrays[atom], atom in self.schedule.differing)

    def buffer(self, value: Value) -> "_Buffer":
        if value not in self.buffers:
            self.buffers[value] = _Buffer.of(self.get(value).array)
        return self.buffers[value]


class _Buffer(NamedTuple):
    """The values of the shards of a device one after another, and a row of padding.

    Thanks to the padding the value of a single shard is not the whole buffer either.
    The compiler would not slice it then, and would move what uses it out of the loop.
    """

    rows: jax.Array  # (g * b + 1, ...)
    shape: tuple[int, ...]  # of the value of one shard

    @staticmethod
    def of(stacked: jax.Array) -> "_Buffer":
        shape = stacked.shape[1:]
        rows, rest = _rows(shape)
        merged = stacked.reshape(len(stacked) * rows, *rest)
        padding = jnp.zeros((1, *rest), stacked.dtype)
        return _Buffer(jnp.concatenate([merged, padding]), shape)

    @staticmethod
    def empty(like: jax.ShapeDtypeStruct, local: int) -> "_Buffer":
        rows, rest = _rows(like.shape)
        return _Buffer(jnp.zeros((local * rows + 1, *rest), like.dtype), like.shape)

    def stacked(self, local: int) -> jax.Array:
        return self.rows[:-1].reshape(local, *self.shape)

    def read(self, shard: jax.Array) -> jax.Array:
        rows, _ = _rows(self.shape)
        own = lax.dynamic_slice_in_dim(self.rows, shard * rows, rows)
        return own.reshape(self.shape)

    def write(self, shard: jax.Array, value: jax.Array) -> "_Buffer":
        rows, rest = _rows(self.shape)
        own = jnp.reshape(value, (rows, *rest))
        written = lax.dynamic_update_slice_in_dim(self.rows, own, shard * rows, 0)
        return self._replace(rows=written)


def _rows(shape: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Splits a shape into rows, so many that one more costs little, and the rest."""
    sizes = np.cumprod((1, *shape))
    axes = next((n for n, size in enumerate(sizes) if size >= 8), len(shape))
    return int(sizes[axes]), tuple(shape[axes:])


# The kinds of groups.


def _shard_by_shard(values: _Values, group: Group) -> None:
    device, schedule = values.device, values.schedule
    sources = _sources(schedule, group)
    buffers = {v: values.buffer(v) for v in sources if v in schedule.differing}
    same = {v: values.get(v).array for v in sources if v not in schedule.differing}

    def compute(shard: jax.Array) -> list[Any]:
        own = {value: buffer.read(shard) for value, buffer in buffers.items()}
        return _run(schedule, group, {**same, **own})

    empty = [
        _Buffer.empty(like, device.local)
        for like in jax.eval_shape(compute, device.count)
    ]

    def body(shard: jax.Array, rows: list[jax.Array]) -> list[jax.Array]:
        return [
            buffer._replace(rows=before).write(shard, value).rows
            for buffer, before, value in zip(empty, rows, compute(shard), strict=True)
        ]

    start = [buffer.rows for buffer in empty]
    filled = lax.fori_loop(jnp.int32(0), device.count, body, start)
    for value, buffer, rows in zip(group.kept, empty, filled, strict=True):
        values.buffers[value] = buffer._replace(rows=rows)


def _once(values: _Values, group: Group) -> None:
    sources = _sources(values.schedule, group)

    def compute(*arrays: Any) -> list[Any]:
        known = dict(zip(sources, arrays, strict=True))
        return _run(values.schedule, group, known)

    arrays = [values.get(value).array for value in sources]
    values.add(group.kept, _alone(values.device.count, compute, *arrays))


def _alone(count: jax.Array, function: Callable[..., Any], *arrays: Any) -> Any:
    """Computes a function so that nothing of it is fused with anything else."""
    shapes = jax.eval_shape(function, *arrays)

    def never(*_: Any) -> Any:
        return jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)

    return lax.cond(count > 0, function, never, *arrays)


def _sources(schedule: Schedule, group: Group) -> list[Value]:
    made = {value for operation in group.operations for value in operation.outputs}
    inputs = [atom for operation in group.operations for atom in operation.inputs]
    return [value for value in schedule.sources(inputs) if value not in made]


def _run(schedule: Schedule, group: Group, known: dict[Value, Any]) -> list[Any]:
    """Computes the kept results of a group from its sources."""

    def read(atom: Any) -> Any:
        if isinstance(atom, Known):
            return atom.aval
        if atom not in known:
            bind(schedule.again[atom])
        return known[atom]

    def bind(operation: Operation) -> None:
        results = operation.bind(*map(read, operation.inputs))
        known.update(zip(operation.outputs, results, strict=True))

    for operation in group.operations:
        bind(operation)
    return [known[value] for value in group.kept]


def _exact(values: _Values, group: Group) -> None:
    (operation,) = group.operations
    _move(values, operation)


def _move(values: _Values, operation: Operation) -> None:
    """Computes an operation that does not round, for all shards side by side."""
    given = [values.get(atom) for atom in operation.inputs]
    arrays = [argument.array for argument in given]
    axes = [0 if argument.differs else None for argument in given]
    side_by_side = any(argument.differs for argument in given)
    bind = jax.vmap(operation.bind, axes) if side_by_side else operation.bind
    values.add(operation.outputs, bind(*arrays))


def _collective(values: _Values, group: Group) -> None:
    (operation,) = group.operations
    given = [values.get(atom) for atom in operation.inputs]
    results = _reduced(values.device, operation, given)
    values.add(operation.outputs, results)


def _reduced(
    device: _Device, operation: Operation, given: Sequence[_Argument]
) -> list[Any]:
    name, params = operation.name, operation.params
    first = lax.axis_index(AXIS).astype(jnp.int32) * device.local
    if name == "axis_index":
        return [first + jnp.arange(device.local, dtype=jnp.int32)]
    if name == "psum":
        return [_sum(device, argument) for argument in given]
    if name in ("pmax", "pmin"):
        reduce = jnp.max if name == "pmax" else jnp.min
        return [reduce(_gather(_stacked(device, one)), axis=0) for one in given]
    (argument,) = given
    if name == "all_gather":
        every = _gather(_stacked(device, argument))
        axis = params["all_gather_dimension"]
        every = jnp.moveaxis(every, 0, axis)
        if not params["tiled"]:
            return [every]
        shape = every.shape
        return [every.reshape(*shape[:axis], -1, *shape[axis + 2 :])]
    total, axis = _sum(device, argument), params["scatter_dimension"]
    if params["tiled"]:
        shape, size = total.shape, device.context.num_shards
        total = total.reshape(*shape[:axis], size, -1, *shape[axis + 1 :])
    parts = jnp.moveaxis(total, axis, 0)
    return [lax.dynamic_slice_in_dim(parts, first, device.local)]


def _gather(stacked: Any) -> jax.Array:
    return lax.all_gather(stacked, AXIS, tiled=True)


def _sum(device: _Device, argument: _Argument) -> jax.Array:
    """Adds the values of all shards in an order that does not depend on the devices.

    Neighbors are added while their number is even: first on each device, which leaves
    less to be sent, then on all of them.
    """
    array = jnp.asarray(argument.array)
    if not argument.differs:
        return array * jnp.asarray(device.context.num_shards, array.dtype)

    def add_neighbors(rows: jax.Array) -> jax.Array:
        while len(rows) % 2 == 0:
            rows = rows[0::2] + rows[1::2]
        return rows

    wide = array.dtype
    if jnp.issubdtype(wide, jnp.floating):
        wide = jnp.promote_types(wide, jnp.float32)
    rows = add_neighbors(_gather(add_neighbors(array.astype(wide))))
    return functools.reduce(jnp.add, list(rows)).astype(array.dtype)


def _flow(values: _Values, group: Group) -> None:
    (operation,) = group.operations
    given = [values.get(atom) for atom in operation.inputs]
    differ = shard_program.flags_of(operation.outputs, values.schedule.differing)
    run = {"cond": _branch, "scan": _scan, "while": _while}[operation.name]
    values.add(operation.outputs, run(values.device, operation.params, given, differ))


_KINDS: dict[str, Callable[[_Values, Group], None]] = {
    "exact": _exact,
    "same": _once,
    "each": _shard_by_shard,
    "collective": _collective,
    "flow": _flow,
}


def _as_arguments(arrays: Sequence[Any], differ: Sequence[bool]) -> list[_Argument]:
    return [_Argument(*pair) for pair in zip(arrays, differ, strict=True)]


def _as_arrays(
    device: _Device, arguments: Sequence[_Argument], differ: Sequence[bool]
) -> list[Any]:
    return [
        _stacked(device, argument) if flag else argument.array
        for argument, flag in zip(arguments, differ, strict=True)
    ]


def _branch(
    device: _Device,
    params: dict[str, Any],
    given: Sequence[_Argument],
    differ: Sequence[bool],
) -> list[Any]:
    index, *operands = given
    flags = [argument.differs for argument in operands]

    def branch(program: Program, *arrays: Any) -> list[Any]:
        outputs = _evaluate(device, program, _as_arguments(arrays, flags))
        return _as_arrays(device, outputs, differ)

    branches = [
        functools.partial(branch, shard_program.inlined(closed, device.context))
        for closed in params["branches"]
    ]
    return lax.switch(index.array, branches, *[operand.array for operand in operands])


def _scan(
    device: _Device,
    params: dict[str, Any],
    given: Sequence[_Argument],
    differ: Sequence[bool],
) -> list[Any]:
    flags = [argument.differs for argument in given]
    carried = shard_program.scan_carry_differs(params, flags, device.context)
    size = len(carried)
    program = shard_program.inlined(params["jaxpr"], device.context)
    consts, start, over = shard_program.split_scan(params, given)

    def body(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        arguments = [
            *consts,
            *_as_arguments(carry, carried),
            *_as_arguments(slices, [argument.differs for argument in over]),
        ]
        outputs = _evaluate(device, program, arguments)
        return (
            _as_arrays(device, outputs[:size], carried),
            _as_arrays(device, outputs[size:], differ[size:]),
        )

    carry, rows = lax.scan(
        body,
        _as_arrays(device, start, carried),
        [jnp.moveaxis(a.array, 1, 0) if a.differs else a.array for a in over],
        length=params["length"],
        reverse=params["reverse"],
    )
    pairs = zip(rows, differ[size:], strict=True)
    return [*carry, *(jnp.moveaxis(row, 0, 1) if d else row for row, d in pairs)]


def _while(
    device: _Device,
    params: dict[str, Any],
    given: Sequence[_Argument],
    differ: Sequence[bool],
) -> list[Any]:
    of_condition, of_body, start = shard_program.split_while(params, given)
    condition = shard_program.inlined(params["cond_jaxpr"], device.context)
    body = shard_program.inlined(params["body_jaxpr"], device.context)

    def goes_on(carry: list[Any]) -> Any:
        arguments = [*of_condition, *_as_arguments(carry, differ)]
        (result,) = _evaluate(device, condition, arguments)
        return result.array

    def step(carry: list[Any]) -> list[Any]:
        arguments = [*of_body, *_as_arguments(carry, differ)]
        return _as_arrays(device, _evaluate(device, body, arguments), differ)

    return lax.while_loop(goes_on, step, _as_arrays(device, start, differ))
