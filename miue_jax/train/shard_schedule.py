"""Which operations of a shard's program are computed together, and in which order.

`schedule` sorts the operations into groups of one kind each:

- "exact": data movement and integers, which no compiler rounds;
- "same": other operations on values that are the same on all shards;
- "each": other operations on values that differ, to be computed shard by shard;
- "collective": a sum, a maximum or a concatenation over the shards;
- "flow": a loop or a branch that holds operations of several kinds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from miue_jax.train import shard_program
from miue_jax.train.shard_program import Atom, Context, Operation, Program, Value

# Computed again wherever they are used: in memory they would only take up space.
_VIEWS = (
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota"),
    *("copy", "platform_index"),
)
_MOVES = (
    *_VIEWS,
    *("gather", "scatter", "slice", "dynamic_slice", "dynamic_update_slice"),
    *("transpose", "rev", "concatenate", "pad"),
)
_ELEMENTWISE = (
    *("add", "add_any", "sub", "mul", "square", "neg", "max", "min", "sign"),
    *("gt", "ge", "lt", "le", "eq", "ne", "and", "or", "not", "select_n"),
    "convert_element_type",
)
# Elementwise operations after one another that may be computed again.
_MOST_AGAIN = 12


class Group(NamedTuple):
    """Operations that are computed together.

    Attributes:
      kind: see the module's documentation.
      operations: in order.
      kept: the results that other groups or the program's caller use.
    """

    kind: str
    operations: tuple[Operation, ...]
    kept: tuple[Value, ...]


class Schedule(NamedTuple):
    """How a program is computed.

    Attributes:
      differing: the values that may differ between shards.
      again: the operations that are computed again wherever they are used, by result.
      groups: in the order in which they are computed.
    """

    differing: frozenset[Value]
    again: dict[Value, Operation]
    groups: tuple[Group, ...]

    def sources(self, atoms: Sequence[Atom]) -> list[Value]:
        """The kept values from which some values can be computed."""
        return _sources(self.again, atoms)


def schedule(program: Program, inputs: Sequence[bool], context: Context) -> Schedule:
    """Sorts the operations of a program into groups.

    Args:
      program: the program.
      inputs: which of its inputs may differ between shards.
      context: of the program.

    Returns:
      The schedule.

    Raises:
      ValueError: if a branch with collectives is chosen by a value that may differ.
    """
    found = shard_program.differing(program, inputs, context)
    kinds = _kinds(program, found, context)
    _compute_again(program, kinds, found)
    again = {
        value: program.operations[place]
        for place, kind in kinds.items()
        if kind == "again"
        for value in program.operations[place].outputs
    }
    return Schedule(found, again, _grouped(program, kinds, again))


def _sources(again: dict[Value, Operation], atoms: Sequence[Atom]) -> list[Value]:
    found: dict[Value, None] = {}
    waiting = [atom for atom in atoms if isinstance(atom, Value)]
    while waiting:
        value = waiting.pop()
        if value in again:
            waiting += [a for a in again[value].inputs if isinstance(a, Value)]
        else:
            found[value] = None
    return list(found)


# Kinds.


def _kinds(
    program: Program, found: frozenset[Value], context: Context
) -> dict[int, str]:
    """The kind of every operation whose results are used, by its place."""
    used = {atom for atom in program.outputs if isinstance(atom, Value)}
    live: dict[int, list[bool]] = {}
    for place in reversed(range(len(program.operations))):
        operation = program.operations[place]
        flags = shard_program.flags_of(operation.outputs, used)
        if any(flags):
            live[place] = flags
            used |= {atom for atom in operation.inputs if isinstance(atom, Value)}
    kinds: dict[int, str] = {}
    # Values of which no loop over the shards makes a copy: they may be whole data sets.
    large = {value for value in program.inputs if value in found}
    for place in sorted(live):
        operation = program.operations[place]
        on_large = any(shard_program.flags_of(operation.inputs, large))
        kind = _kind(operation, found, live[place], on_large, context)
        kinds[place] = kind
        if kind in ("exact", "collective", "flow") or (kind == "again" and on_large):
            large |= found & set(operation.outputs)
    return kinds


def _kind(
    operation: Operation,
    found: frozenset[Value],
    live: Sequence[bool],
    on_large: bool,
    context: Context,
) -> str:
    flags = shard_program.flags_of(operation.inputs, found)
    if shard_program.is_collective(operation, context):
        return "collective"
    if operation.name in ("cond", "scan", "while"):
        return _kind_of_flow(operation, flags, live, on_large, context)
    if operation.name in _VIEWS:
        return "again"
    if not any(flags):
        return "exact" if _is_whole(operation) else "same"
    exact = operation.name in _MOVES or _is_whole(operation)
    return "exact" if on_large and exact else "each"


def _kind_of_flow(
    operation: Operation,
    flags: Sequence[bool],
    live: Sequence[bool],
    on_large: bool,
    context: Context,
) -> str:
    chosen_by_shard = operation.name == "cond" and flags[0]
    if shard_program.holds_collective(operation, context):
        if chosen_by_shard:
            raise ValueError(
                "a branch with collectives is chosen by a value that may differ "
                "between shards, which does not work with device_invariant"
            )
        return "flow"
    if not any(flags):
        return "same"
    if operation.name == "cond" and on_large and not chosen_by_shard:
        return "flow"
    results = shard_program.results_differ(operation, flags, context)
    return "each" if all(r for r, u in zip(results, live, strict=True) if u) else "flow"


def _is_whole(operation: Operation) -> bool:
    """Whether an operation knows only integers, bools and PRNG keys."""
    dtypes = [atom.aval.dtype for atom in (*operation.inputs, *operation.outputs)]
    return not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes)


def _compute_again(
    program: Program, kinds: dict[int, str], found: frozenset[Value]
) -> None:
    """Marks elementwise operations that are computed again wherever they are used.

    They have one large operand and are used in loops over the shards only, such as the
    normalization and the activation after a convolution. To write and to read their
    results takes longer.
    """
    # Values that are used elsewhere too, where rounding operations must not be.
    outside = {atom for atom in program.outputs if isinstance(atom, Value)}
    inside = set()
    for place in reversed(kinds):
        operation = program.operations[place]
        if kinds[place] == "each" and operation.name in _ELEMENTWISE:
            if not outside.intersection(operation.outputs):
                inside.add(place)
        elif kinds[place] != "each" and (
            kinds[place] != "again" or outside.intersection(operation.outputs)
        ):
            outside |= {atom for atom in operation.inputs if isinstance(atom, Value)}
    operands: dict[Value, set[Value]] = {}
    length: dict[Value, int] = {}
    for place, kind in kinds.items():
        if place not in inside and kind != "again":
            continue
        operation = program.operations[place]
        given = [a for a in operation.inputs if isinstance(a, Value) and a in found]
        merged = set().union(*(operands.get(value, {value}) for value in given))
        steps = max((length.get(value, 0) for value in given), default=0)
        if place in inside:
            steps += 1
            if len(merged) > 1 or steps > _MOST_AGAIN:
                continue
            kinds[place] = "again"
        for value in operation.outputs:
            operands[value], length[value] = merged, steps


# Groups.


def _grouped(
    program: Program, kinds: dict[int, str], again: dict[Value, Operation]
) -> tuple[Group, ...]:
    """Orders the operations so that there are few loops over the shards.

    A loop begins only where nothing else can be computed, and takes in all that can.
    """
    waiting = {
        place: set(_sources(again, program.operations[place].inputs))
        for place, kind in kinds.items()
        if kind != "again"
    }
    done, groups = set(program.inputs), []

    def take(kind: str) -> list[Operation]:
        taken = []
        for place in list(waiting):
            if kinds[place] == kind and waiting[place] <= done:
                del waiting[place]
                taken.append(program.operations[place])
                done.update(program.operations[place].outputs)
        return taken

    while waiting:
        for kind in ("exact", "same", "collective", "flow", "each"):
            if taken := take(kind):
                joined = kind in ("same", "each")
                groups += [(kind, taken)] if joined else [(kind, [o]) for o in taken]
                break
    return _with_kept(program, groups, again)


def _with_kept(
    program: Program,
    groups: Sequence[tuple[str, Sequence[Operation]]],
    again: dict[Value, Operation],
) -> tuple[Group, ...]:
    made_by = {
        value: number
        for number, (_, operations) in enumerate(groups)
        for operation in operations
        for value in operation.outputs
    }
    kept: list[dict[Value, None]] = [{} for _ in groups]
    for value in _sources(again, program.outputs):
        if value in made_by:
            kept[made_by[value]][value] = None
    for number, (_, operations) in enumerate(groups):
        inputs = [atom for operation in operations for atom in operation.inputs]
        for value in _sources(again, inputs):
            if made_by.get(value, number) != number:
                kept[made_by[value]][value] = None
    return tuple(
        Group(kind, tuple(operations), tuple(values))
        for (kind, operations), values in zip(groups, kept, strict=True)
    )
