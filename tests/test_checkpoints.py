"""A checkpoint is whole, or it is an error that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import checkpoints, parallel
from miue_jax.parallel import State


def _state(value: float) -> State:
    state = State(
        jnp.int32(3),
        {"w": jnp.full((4, 2), value), "empty": None},
        (jnp.arange(16.0).reshape(8, 2) * value,),
    )
    return parallel.place(state, parallel.data_mesh(), parallel.STATE_SPEC)


def test_the_newest_state_comes_back_with_its_shardings(tmp_path):
    with checkpoints.Checkpoints(tmp_path / "c") as saved:
        assert saved.latest_step is None
        for step in (1, 2, 5):
            saved.save(step, _state(step))
        saved.save(5, _state(99.0))  # already there: left as it is
    with checkpoints.Checkpoints(tmp_path / "c") as saved:
        assert saved.latest_step == 5
        got = saved.restore(_state(0.0))
    np.testing.assert_array_equal(got.shared["w"], np.full((4, 2), 5.0))
    assert got.per_example[0].sharding == _state(0.0).per_example[0].sharding
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.is_dir()) == [
        "2",
        "5",
    ]


def test_none_of_another_shape_or_damaged_is_an_error(tmp_path):
    with (
        checkpoints.Checkpoints(tmp_path / "none") as saved,
        pytest.raises(ValueError, match="no checkpoint in"),
    ):
        saved.restore(_state(0.0))
    with checkpoints.Checkpoints(tmp_path / "c") as saved:
        saved.save(1, _state(1.0))
        other = _state(0.0)._replace(shared={"v": jnp.zeros(3)})
        with pytest.raises(ValueError, match=r"checkpoint 1 in .* cannot be read"):
            saved.restore(other)
    files = [p for p in (tmp_path / "c" / "1").rglob("*") if p.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with (
        checkpoints.Checkpoints(tmp_path / "c") as saved,
        pytest.raises(ValueError, match="cannot be read"),
    ):
        saved.restore(_state(0.0))


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1.0))
    (tmp_path / "2.orbax-checkpoint-tmp-7").mkdir()
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step == 1
        assert jax.tree.leaves(saved.restore(_state(0.0)))[0] == 3
