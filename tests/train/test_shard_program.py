"""The program of one shard: what is inlined, what may differ, what is refused."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from miue_jax.train import shard_program


def _traced(function, *shapes):
    context = shard_program.Context("data", 4, "cpu", {})
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program, _ = shard_program.trace(function, arguments, context)
    return program, context


def _differ(function, *shapes, inputs):
    program, context = _traced(function, *shapes)
    found = shard_program.differing(program, inputs, context)
    return shard_program.flags_of(program.outputs, found)


def test_calls_and_the_branch_of_the_platform_are_inlined():
    def function(x):
        x = lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)
        return jax.nn.relu(jax.jit(jnp.tanh)(x))

    program, _ = _traced(function, (3,))
    names = [operation.name for operation in program.operations]
    assert [n for n in names if n != "platform_index"] == ["sin", "tanh", "max"]


def test_what_a_collective_returns_is_the_same_on_all_shards():
    def function(x, w):
        mean = lax.pmean(x, "data")
        return x + w, mean + w, lax.all_gather(x, "data"), lax.axis_index("data")

    flags = _differ(function, (3,), (3,), inputs=[True, False])
    assert flags == [True, False, False, True]


def test_what_differs_in_a_late_iteration_differs():
    def scanned(x, w):
        step = lambda c, _: ((c[1], c[2], c[2]), c[0])  # noqa: E731
        return lax.scan(step, (w, w, x), None, length=3)

    # Two iterations pass before the shard's own value reaches the first place.
    assert _differ(scanned, (2,), (2,), inputs=[True, False]) == [True] * 4

    def looped(x, w):
        step = lambda _, c: (c[1], c[2], c[2], c[3] + 1)  # noqa: E731
        return lax.fori_loop(0, 3, step, (w, w, x, w))

    assert _differ(looped, (2,), (2,), inputs=[True, False]) == [True] * 3 + [False]


def test_the_branch_that_is_taken_may_differ():
    def function(x, w):
        by_shard = lax.cond(x[0] > 0, lambda: w, lambda: -w)
        by_all = lax.cond(w[0] > 0, lambda: w, lambda: -w)
        return by_shard, by_all, lax.cond(w[0] > 0, lambda: w, lambda: x)

    flags = _differ(function, (3,), (3,), inputs=[True, False])
    assert flags == [True, False, True]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: lax.ppermute(x, "data", [(0, 1)]), "ppermute does not work with"),
        (
            lambda x: lax.scan(
                lambda c, _: (lax.ppermute(c, "data", [(0, 1)]), None),
                x,
                None,
                length=2,
            )[0],
            "ppermute does not work with .*allowed between shards: psum, pmax",
        ),
        (
            lambda x: lax.psum(x, "data", axis_index_groups=[[0, 1], [2, 3]]),
            "psum with axis_index_groups does not work",
        ),
    ],
    ids=["ppermute", "in a scan", "groups"],
)
def test_other_collectives_are_refused(function, message):
    with pytest.raises(ValueError, match=message):
        _differ(function, (3,), inputs=[True])
