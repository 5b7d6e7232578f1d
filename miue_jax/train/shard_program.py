"""The program of one shard, as a flat list of primitive operations.

`trace` turns a function of one shard, with collectives over all shards, into a
`Program`. `differing` finds the values that may differ between shards; all others are
the same on every device.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

# Collectives whose results are the same on all shards, and all that are supported.
REDUCTIONS = ("psum", "pmax", "pmin", "all_gather")
COLLECTIVES = (*REDUCTIONS, "reduce_scatter", "axis_index")

_CALLS = (
    *("jit", "pjit", "closed_call", "core_call"),
    *("custom_jvp_call", "custom_vjp_call"),
)
_CHECKPOINTS = ("checkpoint", "remat2")


class Value:
    """A result of an operation or an input of a program; equal only to itself.

    Attributes:
      aval: its shape and dtype.
    """

    __slots__ = ("aval",)

    def __init__(self, aval: Any) -> None:
        self.aval = aval


class Known(NamedTuple):
    """A constant.

    Attributes:
      aval: an array.
    """

    aval: Any


Atom = Value | Known


class Operation(NamedTuple):
    """A primitive operation.

    Attributes:
      primitive: of JAX.
      params: of the primitive.
      inputs: its arguments.
      outputs: its results.
    """

    primitive: Any
    params: dict[str, Any]
    inputs: tuple[Atom, ...]
    outputs: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The name of the primitive."""
        return self.primitive.name

    def bind(self, *arguments: Any) -> list[Any]:
        """Applies the primitive to arrays or tracers."""
        params = self.primitive.get_bind_params(self.params)
        result = self.primitive.bind(*arguments, **params)
        return list(result) if self.primitive.multiple_results else [result]


class Program(NamedTuple):
    """Operations in an order in which they can be computed.

    Attributes:
      inputs: arguments.
      operations: all of them; calls are inlined, loops and branches are not.
      outputs: results.
    """

    inputs: tuple[Value, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[Atom, ...]


class Context(NamedTuple):
    """What all parts of a program share.

    Attributes:
      axis: name of the axis of the shards.
      num_shards: G.
      platform: of the devices, as `jax.Device.platform`.
      programs: the bodies of loops and branches that were inlined so far.
    """

    axis: str
    num_shards: int
    platform: str
    programs: dict[int, tuple[Any, Program]]


def trace(
    function: Callable[..., Any], arguments: Sequence[Any], context: Context
) -> tuple[Program, Any]:
    """Traces the function of one shard.

    Args:
      function: of arrays; its collectives name ``context.axis``.
      arguments: shapes and dtypes of the arguments.
      context: of the program.

    Returns:
      The program, and the shapes of the function's results.

    Raises:
      ValueError: if the function uses a collective that is not supported.
    """
    closed, shapes = jax.make_jaxpr(
        function, axis_env=[(context.axis, context.num_shards)], return_shape=True
    )(*arguments)
    return inlined(closed, context), shapes


def inlined(closed: Any, context: Context) -> Program:
    """Turns a closed jaxpr, such as the body of a loop, into a program.

    Args:
      closed: the closed jaxpr.
      context: of the program.

    Returns:
      The program, the same one for the same jaxpr.

    Raises:
      ValueError: if a collective is not supported.
    """
    found = context.programs.get(id(closed))
    if found is None:
        inputs = tuple(Value(var.aval) for var in closed.jaxpr.invars)
        operations: list[Operation] = []
        outputs = _inline(closed.jaxpr, closed.consts, inputs, context, operations)
        # The jaxpr is kept too, or another one might get its identity.
        found = closed, Program(inputs, tuple(operations), tuple(outputs))
        context.programs[id(closed)] = found
    return found[1]


def _inline(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Atom],
    context: Context,
    operations: list[Operation],
) -> list[Atom]:
    """Appends the operations of a jaxpr; returns its results."""
    values: dict[Any, Atom] = dict(zip(jaxpr.invars, inputs, strict=True))
    values |= {v: Known(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> Atom:
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return Known(np.asarray(atom.val, aval.dtype))
        return values[atom]

    for eqn in jaxpr.eqns:
        arguments = tuple(map(read, eqn.invars))
        called = _called(eqn, arguments, context)
        if called is None:
            _check(eqn, context)
            results = tuple(Value(var.aval) for var in eqn.outvars)
            operations.append(Operation(eqn.primitive, eqn.params, arguments, results))
        else:
            results = _inline(*called, context, operations)
        values |= zip(eqn.outvars, results, strict=True)
    return list(map(read, jaxpr.outvars))


def _called(
    eqn: Any, arguments: tuple[Atom, ...], context: Context
) -> tuple[Any, Sequence[Any], tuple[Atom, ...]] | None:
    """What an equation calls, if it does: a jaxpr, its constants and arguments."""
    name, params = eqn.primitive.name, eqn.params
    if name == "cond" and params.get("branches_platforms") is not None:
        branch = _branch_of_platform(params["branches_platforms"], context.platform)
        if branch is not None:
            closed = params["branches"][branch]
            return closed.jaxpr, closed.consts, arguments[1:]
    again = name in _CHECKPOINTS and holds_collective(eqn, context)
    if name not in _CALLS and not again:
        return None
    called = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
    if isinstance(called, core.ClosedJaxpr):
        return called.jaxpr, called.consts, arguments
    return called, (), arguments


def _branch_of_platform(branches: Sequence[Any], platform: str) -> int | None:
    """The branch of `lax.platform_dependent` that is certain to be taken."""
    for number, names in enumerate(branches):
        if names is not None and platform in names:
            return number
    # A GPU has other names, among which the compiler chooses.
    if platform in ("cpu", "tpu") and None in branches:
        return list(branches).index(None)
    return None


def _check(eqn: Any, context: Context) -> None:
    name = eqn.primitive.name
    if name == "shard_map" or (
        _names_axis(eqn.params, context.axis) and name not in COLLECTIVES
    ):
        raise ValueError(
            f"{name} does not work with device_invariant; allowed between shards: "
            f"{', '.join(COLLECTIVES)}"
        )
    if name in COLLECTIVES and eqn.params.get("axis_index_groups") is not None:
        raise ValueError(
            f"{name} with axis_index_groups does not work with device_invariant; "
            "allowed: collectives over all shards"
        )


def _names_axis(params: dict[str, Any], axis: str) -> bool:
    names = [params.get(key) for key in ("axes", "axis_name", "axis_names")]
    return any(n == axis or (isinstance(n, tuple) and axis in n) for n in names)


def is_collective(operation: Any, context: Context) -> bool:
    """Whether an operation (or equation) is a collective over the shards."""
    return _names_axis(operation.params, context.axis)


def holds_collective(operation: Any, context: Context) -> bool:
    """Whether an operation (or equation) is or holds a collective over the shards."""
    return is_collective(operation, context) or any(
        holds_collective(inner, context)
        for jaxpr in _inner_jaxprs(operation.params)
        for inner in jaxpr.eqns
    )


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


# What differs between shards.


def differing(
    program: Program, inputs: Sequence[bool], context: Context
) -> frozenset[Value]:
    """Finds the values that may differ between shards.

    Args:
      program: the program.
      inputs: which of its inputs may.
      context: of the program.

    Returns:
      The values.
    """
    found = {v for v, differs in zip(program.inputs, inputs, strict=True) if differs}
    for operation in program.operations:
        flags = results_differ(operation, flags_of(operation.inputs, found), context)
        found |= {
            v for v, differs in zip(operation.outputs, flags, strict=True) if differs
        }
    return frozenset(found)


def flags_of(atoms: Sequence[Atom], found: Any) -> list[bool]:
    """Which of some values are in a set; constants are not."""
    return [isinstance(atom, Value) and atom in found for atom in atoms]


def results_differ(
    operation: Operation, inputs: Sequence[bool], context: Context
) -> list[bool]:
    """Says which results of an operation may differ between shards.

    Args:
      operation: the operation.
      inputs: which of its inputs may.
      context: of the program.

    Returns:
      One bool for each result.
    """
    params = operation.params
    if is_collective(operation, context):
        return [operation.name not in REDUCTIONS] * len(operation.outputs)
    if operation.name == "cond" and not inputs[0]:
        each = [_outputs_differ(b, inputs[1:], context) for b in params["branches"]]
        return [any(flags) for flags in zip(*each, strict=True)]
    if operation.name == "scan":
        before, carry, after = split_scan(params, inputs)
        carry = scan_carry_differs(params, inputs, context)
        flags = [*before, *carry, *after]
        results = _outputs_differ(params["jaxpr"], flags, context)
        return [*carry, *results[len(carry) :]]
    if operation.name == "while":
        return while_carry_differs(params, inputs, context)
    return [any(inputs)] * len(operation.outputs)


def _outputs_differ(
    closed: Any, inputs: Sequence[bool], context: Context
) -> list[bool]:
    program = inlined(closed, context)
    return flags_of(program.outputs, differing(program, inputs, context))


def split_scan(params: dict[str, Any], inputs: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Splits the inputs of a scan into constants, the carry and what it runs over."""
    first = params["num_consts"]
    last = first + params["num_carry"]
    return inputs[:first], inputs[first:last], inputs[last:]


def split_while(params: dict[str, Any], inputs: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Splits the inputs of a while loop: those of its condition and body, the carry."""
    first = params["cond_nconsts"]
    last = first + params["body_nconsts"]
    return inputs[:first], inputs[first:last], inputs[last:]


def scan_carry_differs(
    params: dict[str, Any], inputs: Sequence[bool], context: Context
) -> list[bool]:
    """Says which parts of a scan's carry may differ between shards at some time.

    Args:
      params: of the scan.
      inputs: which of its inputs may.
      context: of the program.

    Returns:
      One bool for each part of the carry.
    """
    before, start, after = split_scan(params, inputs)

    def step(carry: list[bool]) -> list[bool]:
        flags = [*before, *carry, *after]
        return _outputs_differ(params["jaxpr"], flags, context)[: len(carry)]

    return _until_stable(step, start)


def while_carry_differs(
    params: dict[str, Any], inputs: Sequence[bool], context: Context
) -> list[bool]:
    """Says which parts of a while loop's carry may differ between shards at some time.

    Args:
      params: of the loop.
      inputs: which of its inputs may.
      context: of the program.

    Returns:
      One bool for each part of the carry; all True if the number of steps may differ.
    """
    of_condition, of_body, start = split_while(params, inputs)

    def step(carry: list[bool]) -> list[bool]:
        if any(_outputs_differ(params["cond_jaxpr"], [*of_condition, *carry], context)):
            return [True] * len(carry)
        return _outputs_differ(params["body_jaxpr"], [*of_body, *carry], context)

    return _until_stable(step, start)


def _until_stable(
    step: Callable[[list[bool]], list[bool]], start: Sequence[bool]
) -> list[bool]:
    carry = list(start)
    while (after := [a or b for a, b in zip(carry, step(carry), strict=True)]) != carry:
        carry = after
    return carry
