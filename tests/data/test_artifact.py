"""The artifact: budget, metadata, round trips, atomicity and damaged files."""

import errno
import json
import os
import zipfile

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from miue_jax.budget import Budget
from miue_jax.data import artifact, npz
from miue_jax.data.dataset import Dataset, fingerprint

NAMES = ("cat", "dög", "tree frog")


def _clean(count=6, size=12, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    return Dataset(images, np.arange(count, dtype=np.int32) % len(NAMES), NAMES)


def _delta(clean, radius=8.0, seed=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(-radius / 255, radius / 255, clean.images.shape).astype(
        np.float32
    )


def _build(clean=None, radius=8.0, **metadata):
    clean = _clean() if clean is None else clean
    metadata = {"method": "random_noise", "seed": 3, **metadata}
    return artifact.build(
        clean, _delta(clean, radius), budget=Budget("linf", radius), metadata=metadata
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "artifact.npz"
    artifact.save(path, _build())
    return path


def _rewrite(path, **changes):
    """Replaces arrays of an artifact, as someone without this library could."""
    arrays = npz.read(path)
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = np.asarray(change(arrays[name]))
    with open(path, "wb") as file:
        npz.write(file, arrays)


def _edit_metadata(path, **changes):
    def edit(text):
        metadata = json.loads(text.item())
        for name, value in changes.items():
            if value is None:
                del metadata[name]
            else:
                metadata[name] = value
        return json.dumps(metadata)

    _rewrite(path, metadata=edit)


# Building.


@hypothesis.given(
    radius=st.one_of(st.integers(1, 255), st.floats(1, 255)),
    shape=st.sampled_from([(1, 1, 1, 1), (3, 4, 2, 3)]),
    seed=st.integers(0, 2**32 - 1),
)
@hypothesis.example(radius=1.9999999999999716, shape=(3, 4, 2, 3), seed=0)
@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
def test_the_budget_holds_on_8_bit_values(radius, shape, seed):
    rng = np.random.default_rng(seed)
    clean = Dataset(
        rng.choice(np.array([0, 1, 127, 254, 255], np.uint8), shape),
        np.zeros(shape[0], np.int32),
        ("a", "b"),
    )
    delta = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], shape) * radius / 255
    result = artifact.build(
        clean, delta.astype(np.float32), budget=Budget("linf", radius), metadata={}
    )
    change = result.dataset.images.astype(int) - clean.images
    assert np.abs(change).max() <= result.metadata["radius"]
    assert abs(result.metadata["radius"] - radius) <= 1e-4
    assert result.metadata["audit"]["max_change"] == np.abs(change).max()
    expected = np.clip(clean.images + np.rint(255 * delta.astype(np.float32)), 0, 255)
    # A fraction of a gray level in the radius is cut off.
    off = np.abs(result.dataset.images - expected)
    assert off.max() <= (0 if result.metadata["radius"].is_integer() else 1)


@pytest.mark.parametrize("value", [9 / 255, -9 / 255, 1.0])
def test_a_perturbation_beyond_the_radius_is_refused(value):
    clean = _clean()
    delta = np.zeros(clean.images.shape, np.float32)
    delta[2, 0, 0, 0] = value
    message = r"image 2 reaches \d+ gray levels, the radius allows 8 \(1 of 6"
    with pytest.raises(ValueError, match=message):
        artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})


@pytest.mark.parametrize("export", ["truncate", "drop_negative"])
def test_another_export_is_made_told_and_kept(export, tmp_path):
    clean = _clean()
    delta = _delta(clean)
    made = artifact.build(
        clean, delta, budget=Budget("linf", 8), metadata={}, export=export
    )
    # What misses a whole level by rounding errors only counts as whole.
    down = np.clip(np.floor(255 * delta + 1e-4), -8, 8)
    if export == "drop_negative":
        down = np.maximum(down, 0)
    expected = np.clip(clean.images + down, 0, 255)
    np.testing.assert_array_equal(made.dataset.images, expected)
    assert made.metadata["export"] == export
    assert artifact.describe(made).count(f"export {export}") == 1
    assert "export" not in artifact.describe(_build())
    path = tmp_path / "artifact.npz"
    artifact.save(path, made, delta=delta)
    assert artifact.load(path).metadata["export"] == export


def test_truncation_may_exceed_an_l2_budget_by_a_level_a_value():
    images = np.full((1, 8, 8, 3), 100, np.uint8)
    clean = Dataset(images, np.zeros(1, np.int32), ("a", "b"))
    # A little below 0 all over: truncation makes a whole level of it.
    delta = np.full(images.shape, -0.01 / 255, np.float32)
    budget = Budget("l2", float(np.linalg.norm(delta)))
    made = artifact.build(clean, delta, budget=budget, metadata={}, export="truncate")
    assert made.metadata["audit"]["max_change"] == 1
    with pytest.raises(ValueError, match="export 'nearest'"):
        artifact.build(clean, delta, budget=budget, metadata={}, export="nearest")


def test_an_overrunning_quantizer_is_caught(monkeypatch):
    clean = _clean()
    monkeypatch.setattr(
        artifact,
        "quantize",
        lambda images, delta, *, radius, export: 255 - images,
    )
    with pytest.raises(ValueError, match="the radius allows 8"):
        _build(clean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d[:-1], "one shape"),
        (lambda d: d.transpose(0, 3, 1, 2), "one shape"),
        (lambda d: np.zeros(d.shape, np.int8), "floating point, got int8"),
        (lambda d: np.full_like(d, np.nan), "NaN"),
        (lambda d: np.full_like(d, np.inf), "infinity"),
    ],
)
def test_bad_perturbations(change, message):
    clean = _clean()
    with pytest.raises(ValueError, match=message):
        artifact.build(
            clean, change(_delta(clean)), budget=Budget("linf", 8), metadata={}
        )


@pytest.mark.parametrize("radius", [0, -1, 256, float("nan"), 8 / 255])
def test_bad_radius(radius):
    clean = _clean()
    with pytest.raises(ValueError, match="from 1 to 255"):
        artifact.build(
            clean, 0 * _delta(clean), budget=Budget("linf", radius), metadata={}
        )


def test_metadata_describe_the_result():
    clean = _clean()
    delta = _delta(clean)
    delta[clean.labels == 1] = 0
    before = clean.images.copy()
    result = artifact.build(
        clean,
        jnp.asarray(delta),
        budget=Budget("linf", np.float32(8)),
        metadata={"method": "mi_ue", "settings": {"steps": np.int64(3), "t": (0.1, 2)}},
    )
    metadata = result.metadata
    np.testing.assert_array_equal(clean.images, before, err_msg="source was changed")
    np.testing.assert_array_equal(result.dataset.labels, clean.labels)
    assert metadata["method"] == "mi_ue"
    assert metadata["settings"] == {"steps": 3, "t": [0.1, 2]}
    assert metadata["radius"] == 8.0
    assert metadata["source_fingerprint"] == fingerprint(clean)
    assert metadata["fingerprint"] == fingerprint(result.dataset)
    assert metadata["audit"]["max_change"] == 8
    assert 33 < metadata["psnr"] < 37  # 20 log10(255 / (8 / sqrt(3))) = 34.9
    assert 0.9 < metadata["ssim"] < 1
    assert metadata["perturbed"] == {
        "images": 4,
        "of": 6,
        "by_class": {"cat": 2, "dög": 0, "tree frog": 2},
    }
    assert set(metadata["versions"]) == {"python", "jax", "flax", "miue_jax"}


def test_an_infinite_psnr_is_null():
    clean = _clean()
    metadata = artifact.build(
        clean, 0 * _delta(clean), budget=Budget("linf", 8), metadata={}
    ).metadata
    assert (metadata["psnr"], metadata["ssim"]) == (None, None)
    assert metadata["perturbed"]["images"] == 0


def test_ssim_of_images_below_its_window_is_null():
    metadata = _build(_clean(size=8)).metadata
    assert metadata["ssim"] is None
    assert metadata["psnr"] > 30


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": {"b": [1, float("nan")]}}, r"metadata\.a\.b\[1\] is nan"),
        ({"a": np.float32(np.inf)}, r"metadata\.a is inf"),
        ({"a": {1: 2}}, "key 1 is not a string"),
        ({"a": np.zeros(3)}, r"metadata\.a is a ndarray"),
        ({"a": object()}, r"metadata\.a is a object"),
        ({"psnr": 99.0, "radius": 4}, "psnr, radius cannot be given"),
    ],
)
def test_metadata_must_be_strict_json(metadata, message):
    clean = _clean()
    with pytest.raises(ValueError, match=message):
        artifact.build(
            clean, _delta(clean), budget=Budget("linf", 8), metadata=metadata
        )


# Saving and loading.


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip(tmp_path, channels):
    clean = _clean(channels=channels)
    original = _build(clean)
    path = tmp_path / "artifact.npz"
    artifact.save(path, original, delta=_delta(clean))
    loaded = artifact.load(path)
    np.testing.assert_array_equal(loaded.dataset.images, original.dataset.images)
    np.testing.assert_array_equal(loaded.dataset.labels, original.dataset.labels)
    assert loaded.dataset.class_names == NAMES
    assert loaded.dataset.labels.dtype == np.int32
    assert loaded.metadata == original.metadata
    assert artifact.is_artifact(path)
    artifact.check_source(loaded, clean)
    delta = np.load(tmp_path / "artifact.delta.npy", allow_pickle=False)
    assert delta.dtype == np.float32
    np.testing.assert_array_equal(delta, _delta(clean))
    assert sorted(os.listdir(tmp_path)) == ["artifact.delta.npy", "artifact.npz"]


def test_numpy_reads_the_file_without_this_library(saved):
    with np.load(saved, allow_pickle=False) as arrays:
        assert set(arrays) == {"images", "labels", "class_names", "metadata"}
        assert arrays["images"].dtype == np.uint8
        assert arrays["labels"].dtype == np.int32
        assert json.loads(arrays["metadata"].item())["method"] == "random_noise"


def test_equal_content_gives_equal_bytes(tmp_path, monkeypatch):
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    original = _build(b=1, a={"y": 2, "x": 3})
    artifact.save(first, original)
    monkeypatch.setattr("time.time", lambda: 2e9)
    reordered = _build(a={"x": 3, "y": 2}, b=1)
    images = np.asfortranarray(reordered.dataset.images)
    artifact.save(
        second, reordered._replace(dataset=reordered.dataset._replace(images=images))
    )
    assert first.read_bytes() == second.read_bytes()
    third = tmp_path / "c.npz"
    artifact.save(third, artifact.load(first), delta=_delta(_clean()))
    assert first.read_bytes() == third.read_bytes()


def test_nothing_is_hashed_twice(tmp_path, monkeypatch):
    clean, delta = _clean(), _delta(_clean())
    whole = _build(clean)
    artifact.save(tmp_path / "a.npz", whole, delta=delta)
    hashed = []

    def counted(function):
        def call(given):
            hashed.append(function.__name__)
            return function(given)

        return call

    for function in (artifact.fingerprint, artifact.delta_digest):
        monkeypatch.setattr(artifact, function.__name__, counted(function))
    source = whole.metadata["source_fingerprint"]
    made = artifact.build(
        clean,
        delta,
        budget=Budget("linf", 8.0),
        metadata={"method": "random_noise", "seed": 3},
        source_fingerprint=source,
    )
    artifact.save(tmp_path / "b.npz", made, delta=delta, verify=False)
    artifact.check_source(made, clean, source_fingerprint=source)
    assert hashed == ["fingerprint", "delta_digest"]
    for name in ("npz", "delta.npy"):
        a, b = tmp_path / f"a.{name}", tmp_path / f"b.{name}"
        assert a.read_bytes() == b.read_bytes()
    with pytest.raises(ValueError, match="another source"):
        artifact.check_source(made, clean, source_fingerprint="0" * 64)


def test_a_stale_perturbation_does_not_stay(tmp_path):
    path = tmp_path / "a.npz"
    artifact.save(path, _build(), delta=_delta(_clean()))
    artifact.save(path, _build(seed=4))
    assert os.listdir(tmp_path) == ["a.npz"]


def test_another_source_is_noticed():
    with pytest.raises(ValueError, match="another source"):
        artifact.check_source(_build(), _clean(seed=9))


def test_other_files_are_no_artifacts(tmp_path):
    arrays = tmp_path / "arrays.npz"
    np.savez(arrays, images=np.zeros(3), labels=np.zeros(3))
    text = tmp_path / "text.npz"
    text.write_text("hello")
    for path in (arrays, text, tmp_path, tmp_path / "missing.npz"):
        assert not artifact.is_artifact(path), path
        with pytest.raises(ValueError, match=str(path)):
            artifact.load(path)


def test_bad_arguments_of_save(tmp_path):
    good = _build()
    with pytest.raises(ValueError, match=r"must end in \.npz"):
        artifact.save(tmp_path / "artifact.zip", good)
    with pytest.raises(ValueError, match="there is no folder"):
        artifact.save(tmp_path / "missing" / "artifact.npz", good)
    with pytest.raises(ValueError, match=r"shape \(6, 12, 12, 3\), got \(6, 3, 12, 12"):
        artifact.save(
            tmp_path / "a.npz", good, delta=_delta(_clean()).transpose(0, 3, 1, 2)
        )
    other = good._replace(dataset=good.dataset._replace(images=_clean().images))
    with pytest.raises(ValueError, match="not those that were protected"):
        artifact.save(tmp_path / "a.npz", other)
    with pytest.raises(ValueError, match=r"metadata\.x is nan"):
        artifact.save(
            tmp_path / "a.npz",
            good._replace(metadata={**good.metadata, "x": float("nan")}),
        )
    assert os.listdir(tmp_path) == []


# A full disk.


def _full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("target", ["os.replace", "os.fsync"])
@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path, monkeypatch, target, nth, existing
):
    path = tmp_path / "a.npz"
    clean = _clean()
    old = _build(seed=4)
    if existing:
        artifact.save(path, old, delta=_delta(clean))
    real, calls = getattr(os, target[3:]), []

    def failing(*args):
        calls.append(args)
        return _full_disk() if len(calls) == nth + 1 else real(*args)

    monkeypatch.setattr(target, failing)
    with pytest.raises(OSError, match=r"cannot be written \(No space") as raised:
        artifact.save(path, _build(seed=5), delta=_delta(clean))
    monkeypatch.undo()
    # The image file comes first: once it is in place the artifact is complete.
    name = "a.npz" if nth == 0 else "a.delta.npy"
    assert raised.value.filename == str(tmp_path / name)
    if nth == 0 and not existing:
        assert os.listdir(tmp_path) == []
    else:
        assert os.listdir(tmp_path) == ["a.npz"]
        seed = artifact.load(path).metadata["seed"]
        assert seed == (4 if nth == 0 else 5)


@pytest.mark.parametrize("existing", [False, True])
def test_a_disk_that_fills_while_writing(tmp_path, monkeypatch, existing):
    path = tmp_path / "a.npz"
    if existing:
        artifact.save(path, _build(seed=4), delta=_delta(_clean()))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = zipfile._ZipWriteFile.write
    written = []

    def write(self, data):
        written.append(len(data))
        return _full_disk() if sum(written) > 1500 else real(self, data)

    monkeypatch.setattr(zipfile._ZipWriteFile, "write", write)
    with pytest.raises(OSError, match="No space") as raised:
        artifact.save(path, _build(seed=5), delta=_delta(_clean()))
    assert raised.value.filename == str(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_file_is_readable_by_others(saved):
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o666 & ~umask


# Damaged and foreign files.


def test_truncation_at_any_place_is_noticed(saved):
    whole = saved.read_bytes()
    for size in [*range(0, len(whole), 97), len(whole) - 1]:
        saved.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="truncated") as raised:
            artifact.load(saved)
        assert str(saved) in str(raised.value)
        assert "\n" not in str(raised.value), f"{size} bytes: more than one line"


def test_a_flipped_byte_is_noticed_or_harmless(saved):
    whole, original = saved.read_bytes(), artifact.load(saved)
    refused = 0
    for place in range(0, len(whole), 41):
        saved.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        )
        try:
            loaded = artifact.load(saved)
        except ValueError as error:
            refused += str(saved) in str(error)
            continue
        # Times and the like in the zip headers carry nothing.
        assert loaded.metadata == original.metadata, f"byte {place}"
        assert fingerprint(loaded.dataset) == fingerprint(original.dataset)
    assert refused > 0.9 * len(whole) / 41


def test_tampered_images_and_labels_are_noticed(saved):
    whole = saved.read_bytes()

    def brighten(images):
        images[0, 0, 0, 0] ^= 1
        return images

    for change in (
        {"images": brighten},
        {"images": lambda images: images[::-1]},
        {"labels": lambda labels: labels[::-1]},
        {"labels": lambda labels: np.roll(labels, 1)},
    ):
        saved.write_bytes(whole)
        _rewrite(saved, **change)
        with pytest.raises(ValueError, match="not those that were protected"):
            artifact.load(saved)


@pytest.mark.parametrize("name", ["images", "labels", "class_names", "metadata"])
def test_missing_arrays(saved, name):
    _rewrite(saved, **{name: None})
    with pytest.raises(ValueError, match=f"artifact.npz: .*it has no {name}"):
        artifact.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": lambda _: "{"}, "metadata: it is not JSON"),
        ({"metadata": lambda _: "[" * 100_000}, "metadata: it is nested"),
        ({"metadata": lambda _: "[1]"}, "not a JSON object"),
        ({"metadata": lambda _: '{"a":' * 70 + "1" + "}" * 70}, "nested more than 64"),
        ({"metadata": lambda _: '{"psnr": 1e999}'}, "holds the number 1e999"),
        ({"metadata": lambda _: '{"psnr": Infinity}'}, "Infinity, which is not JSON"),
        ({"metadata": lambda _: "{}"}, "metadata has no format, fingerprint"),
        ({"metadata": lambda _: [1, 2]}, "metadata must be one string"),
        ({"class_names": lambda _: [1, 2, 3]}, "list of strings"),
        ({"class_names": lambda names: names[:2]}, r"must lie in \[0, 1\], got 2"),
        ({"images": lambda images: images[..., 0]}, r"must have shape \(N, H, W"),
        ({"images": lambda images: images / 255}, "uint8, got float64"),
        ({"labels": lambda labels: labels[:3]}, "one per image"),
        ({"labels": lambda labels: labels - 1}, "got -1 at index 0"),
        ({"labels": lambda labels: labels.astype(float)}, "int32, got float64"),
    ],
)
def test_foreign_content(saved, changes, message):
    _rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message) as raised:
        artifact.load(saved)
    assert str(raised.value).startswith(f"{saved}: not a protected data set: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2 is unknown; this version reads 1"),
        ({"fingerprint": "0" * 64}, "not those that were protected"),
        ({"source_fingerprint": 5}, "not a string"),
        ({"radius": None}, "metadata has no radius"),
        ({"radius": "x"}, "radius is in gray levels"),
        ({"norm": []}, "unknown norm"),
        ({"audit": 3}, "audit in the metadata is 3"),
        ({"audit": {"max_change": "x"}}, "audit in the metadata is {'max_change'"),
        ({"psnr": "x"}, "psnr in the metadata is 'x'"),
        ({"ssim": [0.5]}, "ssim in the metadata is"),
        ({"export": 1}, "export in the metadata is 1"),
        ({"protected_images": "all"}, "protected_images in the metadata is 'all'"),
        ({"generator": "mi_ue"}, "generator in the metadata is 'mi_ue'"),
        ({"format": "x" * 10**5}, r"format 'x+\.\.\.x+' is unknown"),
    ],
)
def test_foreign_metadata(saved, changes, message):
    _edit_metadata(saved, **changes)
    with pytest.raises(ValueError, match=message):
        artifact.load(saved)


def test_python_objects_are_never_unpickled(tmp_path):
    path = tmp_path / "objects.npz"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    np.savez(path, images=np.array([Evil()], dtype=object), metadata=np.array("{}"))
    with pytest.raises(ValueError, match="pickle"):
        artifact.load(path)
    assert not (tmp_path / "executed").exists()


# Other norms.


def _delta_of(norm, size, clean):
    delta = np.zeros(clean.images.shape, np.float32)
    if norm == "l2":
        delta[:, 0, 0, 0] = size
    else:
        delta[:, 0, : int(size)] = 0.5
    return delta


@pytest.mark.parametrize(
    ("budget", "fits", "exceeds"),
    [
        (Budget("l2", 0.25), 0.25, 0.26),
        (Budget("l0", 2), 2, 3),
    ],
)
def test_budgets_of_other_norms_are_held_and_said(tmp_path, budget, fits, exceeds):
    clean = _clean()
    made = artifact.build(
        clean, _delta_of(budget.norm, fits, clean), budget=budget, metadata={}
    )
    assert Budget(made.metadata["norm"], made.metadata["radius"]) == budget
    assert str(budget) in artifact.describe(made)
    artifact.save(tmp_path / "p.npz", made)
    assert artifact.load(tmp_path / "p.npz").metadata == made.metadata
    with pytest.raises(ValueError, match=r"the radius allows .* \(6 of 6"):
        artifact.build(
            clean, _delta_of(budget.norm, exceeds, clean), budget=budget, metadata={}
        )


def test_without_a_bound_anything_goes():
    clean = _clean()
    delta = np.ones(clean.images.shape, np.float32)
    made = artifact.build(clean, delta, budget=Budget("unbounded", None), metadata={})
    assert (made.dataset.images == 255).all()
    assert made.metadata["radius"] is None


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (("l1", 1.0), "unknown norm 'l1'"),
        (("l2", 0.0), "radius is 0.0"),
        (("l0", 1.5), "radius is 1.5"),
        (("unbounded", 3.0), "'unbounded' has none"),
        (("linf", None), "radius is in gray levels"),
        (("linf", 8 / 255), "radius is in gray levels, from 1 to 255, got 0.03"),
    ],
)
def test_impossible_budgets(budget, message):
    with pytest.raises(ValueError, match=message):
        Budget(*budget)


@pytest.mark.parametrize("change", [{"norm": "foo"}, {"radius": "x"}, {"norm": [1]}])
def test_a_budget_that_is_none_is_no_artifact(tmp_path, change):
    path = tmp_path / "p.npz"
    artifact.save(path, _build())
    _edit_metadata(path, **change)
    with pytest.raises(ValueError, match=r"p\.npz: not a protected data set"):
        artifact.load(path)
