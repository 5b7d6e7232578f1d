"""Groups of operations: which are computed together, and which again."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from miue_jax.train import shard_program, shard_schedule


def _scheduled(function, *shapes, inputs):
    context = shard_program.Context("data", 4, "cpu", {})
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program, _ = shard_program.trace(function, arguments, context)
    schedule = shard_schedule.schedule(program, inputs, context)
    groups = [
        (group.kind, [operation.name for operation in group.operations])
        for group in schedule.groups
    ]
    again = sorted({operation.name for operation in schedule.again.values()})
    return groups, again, schedule


def test_there_is_one_loop_between_two_collectives():
    def function(x, w):
        y = jnp.exp(x @ w)
        mean = lax.psum(jnp.sum(y, 0), "data")
        return lax.psum(jnp.sum(jnp.log(y / jnp.sqrt(mean)), 0), "data")

    groups, _, _ = _scheduled(function, (2, 3), (3, 5), inputs=[True, False])
    assert groups == [
        ("each", ["dot_general", "exp", "reduce_sum"]),
        ("collective", ["psum"]),
        ("same", ["sqrt"]),
        ("each", ["div", "log", "reduce_sum"]),
        ("collective", ["psum"]),
    ]


def test_an_activation_is_computed_again_but_not_outside_of_loops():
    def function(x, w):
        y = x @ w
        normalized = jnp.maximum(y - lax.psum(jnp.sum(y, 0), "data"), 0)
        total = lax.psum(jnp.sum(normalized @ w, 0), "data")
        return normalized @ w + total, normalized

    shapes = (2, 3), (3, 3)
    _, again, schedule = _scheduled(
        lambda *a: function(*a)[0], *shapes, inputs=[True, False]
    )
    assert {"sub", "max"} <= set(again)
    (first, *_) = [group for group in schedule.groups if group.kind == "each"]
    assert [value.aval.shape for value in first.kept] == [(2, 3), (3,)] or [
        value.aval.shape for value in first.kept
    ] == [(3,), (2, 3)]
    _, again, _ = _scheduled(function, *shapes, inputs=[True, False])
    assert "max" not in again, "a caller's result would be rounded outside of the loop"


def test_integers_and_what_moves_data_are_no_loops():
    def function(x, w):
        index = (w * 2).astype(jnp.int32) + 1
        return x[index] * 2.0

    groups, _, _ = _scheduled(function, (7, 2), (3,), inputs=[True, False])
    kinds = {name: kind for kind, names in groups for name in names}
    assert kinds["gather"] == "exact"
    assert kinds["mul"] in ("each", "same")
    assert groups[-1] == ("each", ["mul"])


def test_a_branch_by_shard_with_a_collective_is_refused():
    def function(x):
        return lax.cond(x[0] > 0, lambda: lax.psum(x, "data"), lambda: x)

    with pytest.raises(ValueError, match="branch with collectives is chosen by a"):
        _scheduled(function, (3,), inputs=[True])
