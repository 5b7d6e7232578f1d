"""Files of arrays: what a header declares is compared before it is allocated."""

import numpy as np
import pytest

from miue_jax.data import npz


def _header(shape, path):
    """A file whose header declares a shape, and that holds no numbers."""
    with path.open("wb") as file:
        values = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, values)
        file.write(bytes(16))
    return path


@pytest.mark.parametrize("shape", [(2**40,), (2**30, 2**30), (5,)])
def test_a_header_beyond_the_file_is_truncation(tmp_path, shape, monkeypatch):
    monkeypatch.setattr(np.lib.format, "read_array", None)
    path = _header(shape, tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"a\.npy: truncated.*its header says \d+ byt"):
        npz.read_npy(path)


def test_an_array_beyond_the_memory_is_not_read(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", np.zeros(1000))
    monkeypatch.setenv("MIUE_MEMORY", "1e-6")
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(ValueError, match=r"its array would need 8e-06 GB of memory"):
        npz.read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_of_the_format_is_read(tmp_path, version):
    values = np.zeros(3, [("ä" if version == (3, 0) else "a", "<f4")])
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array(file, values, version=version)
    assert npz.read_npy(tmp_path / "a.npy").shape == (3,)


def test_python_objects_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        npz.read_npy(tmp_path / "a.npy")


def test_a_header_that_reads_like_odd_code_is_one_error(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        values = {"descr": "<f4", "fortran_order": False, "shape": (30,)}
        np.lib.format.write_array_header_1_0(file, values)
        file.write(bytes(120))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(30,)", b"(3or)"))
    with pytest.raises(ValueError, match=r"a\.npy: truncated, damaged"):
        npz.read_npy(tmp_path / "a.npy")
