"""The limit of what may be read: the machine, its control groups, the user's word."""

import resource

import numpy as np
import pytest

from miue_jax.data import memory, npz

GB = 10**9


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine with unlimited control groups; returns the folder of their limits."""
    monkeypatch.delenv("MIUE_MEMORY", raising=False)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_OWN_CGROUPS", tmp_path / "own")
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 16 * GB // 4096}
    monkeypatch.setattr(memory.os, "sysconf", sizes.__getitem__)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: unlimited)
    return tmp_path


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_it_is_half_of_the_machine(groups):
    assert memory.limit() == pytest.approx(8 * GB, rel=1e-6)


def test_control_groups_and_those_above_them_count(groups):
    (groups / "own").write_text("0::/a/b\n")
    _write(groups / "cgroup/a/b/memory.max", "max\n")
    assert memory.limit() == pytest.approx(8 * GB, rel=1e-6)
    _write(groups / "cgroup/a/memory.max", f"{4 * GB}\n")
    assert memory.limit() == 2 * GB


def test_control_groups_of_the_first_version_count(groups):
    (groups / "own").write_text("3:cpu,memory:/a\n2:pids:/b\n")
    _write(groups / "cgroup/memory/a/memory.limit_in_bytes", f"{4 * GB}\n")
    _write(groups / "cgroup/memory/b/memory.limit_in_bytes", f"{1 * GB}\n")
    assert memory.limit() == 2 * GB


def test_a_limit_of_the_shell_counts(groups, monkeypatch):
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (2 * GB, 2 * GB))
    assert memory.limit() == GB


def test_the_user_has_the_last_word(groups, monkeypatch):
    monkeypatch.setenv("MIUE_MEMORY", "100")
    assert memory.limit() == 100 * GB
    memory.check(100 * GB, "images")
    with pytest.raises(ValueError, match=r"^images would need 101 GB of memory; al"):
        memory.check(101 * GB, "images")


@pytest.mark.parametrize("given", ["", "x", "0", "-1", "nan", "inf", "1e400"])
def test_a_limit_is_a_positive_number(monkeypatch, given):
    monkeypatch.setenv("MIUE_MEMORY", given)
    with pytest.raises(ValueError, match=r"MIUE_MEMORY is .* allowed: a number of gig"):
        memory.limit()


@pytest.mark.parametrize(("given", "message"), [("x", "MIUE_MEM"), ("1e-9", "its ")])
def test_a_file_that_is_not_read_is_not_called_damaged(
    tmp_path, monkeypatch, given, message
):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(9))
    np.save(tmp_path / "a.npy", np.zeros(9))
    monkeypatch.setenv("MIUE_MEMORY", given)
    for read, file in ((npz.read, path), (npz.read_npy, tmp_path / "a.npy")):
        with pytest.raises(ValueError, match=f"^{file}: {message}"):
            read(file)
