"""A checkpoint is whole, or it is an error that names it."""

import contextlib
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from miue_jax.train import checkpoints, parallel
from miue_jax.train.parallel import State


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
        got, _ = saved.restore(_state(0.0))
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


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path, place):
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << place % 8
    path.write_bytes(data)


def _two(folder):
    with checkpoints.Checkpoints(folder) as saved:
        for step in (1, 2):
            saved.save(step, _state(step))
    return _files(folder / "2")


def test_any_changed_bit_and_any_shorter_file_is_found(tmp_path, caplog):
    files = _two(tmp_path / "whole")
    assert any(path.parent.name == "d" for path in files), "no arrays to damage"
    for number, path in enumerate(files):
        for shorten in (False, True):
            copy = tmp_path / f"{number}{shorten}"
            shutil.copytree(tmp_path / "whole", copy)
            damaged = copy / path.relative_to(tmp_path / "whole")
            if not damaged.stat().st_size:
                continue
            if shorten:
                damaged.write_bytes(damaged.read_bytes()[:-1])
            else:
                _flip(damaged, 5 * number)
            caplog.clear()
            with checkpoints.Checkpoints(copy) as saved:
                assert saved.latest_step == 1, damaged
                got, _ = saved.restore(_state(0.0))
            np.testing.assert_array_equal(got.shared["w"], np.full((4, 2), 1.0))
            (record,) = caplog.records
            assert "checkpoint 2 in" in record.message
            assert "going on from checkpoint 1" in record.message
            assert not (copy / "2").exists()


def test_files_that_were_added_or_removed_are_found(tmp_path):
    for number, change in enumerate(
        (
            lambda folder: (folder / "state" / "more").write_text(""),
            lambda folder: _files(folder / "state")[0].unlink(),
        )
    ):
        folder = tmp_path / str(number)
        _two(folder)
        change(folder / "2")
        with checkpoints.Checkpoints(folder) as saved:
            assert saved.latest_step == 1


def test_where_no_checkpoint_is_whole_none_is_restored_and_nothing_removed(tmp_path):
    _two(tmp_path)
    for step in "12":
        _flip(_files(tmp_path / step / "state" / "d")[0], 9)
    before = _files(tmp_path)
    for read_only in (True, False):
        with pytest.raises(ValueError, match=r"checkpoint 2 .* no older one is whole"):
            checkpoints.Checkpoints(tmp_path, read_only=read_only)
    assert _files(tmp_path) == before


def test_a_damaged_checkpoint_can_be_saved_again(tmp_path):
    _flip(_two(tmp_path)[-1], 3)
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(2, _state(2.0))
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step == 2
        assert saved.restore(_state(0.0))[0].shared["w"][0, 0] == 2


def test_what_a_log_held_is_part_of_a_checkpoint(tmp_path):
    log = tmp_path / "metrics.jsonl"
    folder = tmp_path / "c"
    with checkpoints.Checkpoints(folder, logs=[log]) as saved:
        for step in (1, 2):
            with log.open("a") as file:
                file.write(f"line {step}\n")
            saved.save(step, _state(step))
    with log.open("a") as file:
        file.write("line 3, after the last checkpoint\n")
    with checkpoints.Checkpoints(folder, logs=[log]) as saved:
        assert saved.latest_step == 2
    log.write_text("line 1\nline x\nline 3\n")
    with checkpoints.Checkpoints(folder, logs=[log]) as saved:
        assert saved.latest_step == 1
    log.write_text("line")
    with pytest.raises(ValueError, match=r"metrics.jsonl was changed"):
        checkpoints.Checkpoints(folder, logs=[log])


def test_a_kill_before_the_digests_leaves_the_checkpoint_before(tmp_path, caplog):
    _two(tmp_path)
    (tmp_path / "2" / "sha256.json").unlink()
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert not caplog.records


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1.0))
    (tmp_path / "2.orbax-checkpoint-tmp-7").mkdir()
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step == 1
        assert jax.tree.leaves(saved.restore(_state(0.0))[0])[0] == 3


def test_notes_come_back_with_the_state(tmp_path):
    notes = {"loss": [0.1 + 0.2, float("nan")]}
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1.0), notes=notes)
    with checkpoints.Checkpoints(tmp_path) as saved:
        _, got = saved.restore(_state(0.0))
    assert got["loss"][0] == 0.1 + 0.2
    assert np.isnan(got["loss"][1])


def test_a_state_of_another_configuration_is_refused(tmp_path):
    ours, theirs = {"radius": 8.0, "seed": 0}, {"radius": 8.0, "seed": 1}
    with checkpoints.Checkpoints(tmp_path, config=theirs) as saved:
        saved.save(1, _state(1.0))
    with (
        checkpoints.Checkpoints(tmp_path, config=ours) as saved,
        pytest.raises(ValueError, match=r"checkpoint 1 in .* of another configuration"),
    ):
        saved.restore(_state(0.0))
    # The order of the settings is none of them.
    again = dict(reversed(theirs.items()))
    with checkpoints.Checkpoints(tmp_path, config=again) as saved:
        saved.restore(_state(0.0))


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_read(tmp_path):
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1.0))
    with checkpoints.Checkpoints(tmp_path, config={"seed": 0}) as saved:
        saved.restore(_state(0.0))


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(ValueError, match="checkpoints is not a folder"):
        checkpoints.Checkpoints(tmp_path / "checkpoints")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if made.returncode:
        pytest.skip("only root can mount the small disk that this needs")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_one_error_and_leaves_the_checkpoint_before(small_disk, capfd):
    def state(seed: int) -> State:
        noise = jax.random.normal(jax.random.key(seed), (8, 10000))
        return State(jnp.int32(seed), {"w": noise}, (noise,))

    directory = small_disk / "c"

    def fill():
        with checkpoints.Checkpoints(directory) as saved:
            for step in (1, 2, 3):
                saved.save(step, state(step))

    with pytest.raises(OSError, match="cannot be written") as raised:
        fill()
    step = int(str(raised.value).split()[1])
    assert str(raised.value) == (
        f"checkpoint {step} in {directory} cannot be written: No space left on device"
    )
    assert capfd.readouterr().err == ""
    kept = [str(number) for number in range(1, step)]
    assert step > 1, "the disk was too small for one"
    assert sorted(path.name for path in directory.iterdir()) == kept
    with checkpoints.Checkpoints(directory) as saved:
        got, _ = saved.restore(state(0))
    assert got.step == step - 1


def test_a_directory_that_is_only_read_stays_as_it_is(tmp_path):
    state = {"a": jnp.arange(3.0)}
    with checkpoints.Checkpoints(tmp_path / "run") as saved:
        saved.save(1, state)
    left = tmp_path / "run" / "2.orbax-checkpoint-tmp-1"
    left.mkdir()
    with checkpoints.Checkpoints(tmp_path / "run", read_only=True) as saved:
        restored, _ = saved.restore(state)
        np.testing.assert_array_equal(restored["a"], state["a"])
        with pytest.raises(ValueError, match="read only"):
            saved.save(3, state)
    assert left.exists(), "what an interrupted save left was removed"
    with pytest.raises(ValueError, match="is not a folder of checkpoints"):
        checkpoints.Checkpoints(tmp_path / "missing", read_only=True)
    assert not (tmp_path / "missing").exists()


def test_a_process_lost_right_after_a_save_does_not_undo_it(tmp_path, monkeypatch):
    def gone(_):
        raise RuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")

    with checkpoints.Checkpoints(tmp_path) as saved, monkeypatch.context() as patch:
        patch.setattr(parallel, "gather_text", gone)
        with pytest.raises(OSError, match="UNKNOWN: Gloo"):
            saved.save(1, _state(1.0))
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.latest_step == 1


def test_what_threads_of_a_failed_save_still_write_is_removed(tmp_path, monkeypatch):
    left = tmp_path / "1.orbax-checkpoint-tmp"
    began = time.monotonic()

    def write():
        while time.monotonic() < began + 0.5:
            with contextlib.suppress(OSError):
                left.mkdir(exist_ok=True)
                (left / "d").write_text("")

    writer = threading.Thread(target=write)

    def fail(*_, **__):
        writer.start()
        raise RuntimeError("no room")

    monkeypatch.setattr(ocp, "save", fail)
    saved = checkpoints.Checkpoints(tmp_path)
    with pytest.raises(OSError, match="no room"):
        saved.save(1, _state(1.0))
    writer.join()
    assert not [*tmp_path.iterdir()]
