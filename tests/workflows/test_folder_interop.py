"""Protected folders in the libraries that people load them with: equal pixels."""

import numpy as np
import protected_folders as folders
import pytest
from PIL import Image

import miue_jax as mj

# pip install miue_jax[interop]


@pytest.fixture(scope="module")
def protected(tmp_path_factory):
    """Class folders of every common format, protected."""
    root = tmp_path_factory.mktemp("site")
    suffixes = ("png", "jpg", "webp", "bmp", "tif", "gif")
    for number, suffix in enumerate(suffixes * 2):
        name = f"{('cats', 'dogs')[number // 6]}/{number:02}.{suffix}"
        folders.photo(root / "in" / name, seed=number)
    with Image.open(root / "in" / "cats" / "00.png") as image:
        image.convert("L").save(root / "in" / "cats" / "gray.png")
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(root / "in" / "dogs" / "turned.jpg", exif=exif)
    found = mj.protect_folder(
        *(root / "in", root / "out"),
        protector=str(folders.save_protector(root / "mine.safetensors")),
        effort="fast",
        measure=False,
    )
    assert len(found.written) == 14
    return root / "out", found


def _stored(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _expected(root, found) -> dict[str, tuple[str, np.ndarray]]:
    """Classes and pixels by target."""
    return {
        entry.target: (entry.label, _stored(root / entry.target))
        for entry in found.written.values()
    }


def test_datasets_loads_it_as_an_image_folder(protected, tmp_path):
    datasets = pytest.importorskip(
        "datasets", reason="datasets is missing: pip install miue_jax[interop]"
    )
    root, found = protected
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(root), cache_dir=str(tmp_path), split="train"
    )
    expected = _expected(root, found)
    assert loaded.features["label"].names == ["cats", "dogs"]
    assert len(loaded) == len(expected)
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    for row, stored in zip(loaded, raw, strict=True):
        target = str(stored["image"]["path"]).replace("\\", "/")
        target = "/".join(target.split("/")[-2:])
        label, pixels = expected.pop(target)
        assert loaded.features["label"].names[row["label"]] == label
        # It turns pictures upright as EXIF has it.
        shown = np.asarray(row["image"].convert("RGB"))
        turned = "turned" in target and shown.shape != pixels.shape
        assert np.array_equal(shown, np.rot90(pixels, -1) if turned else pixels)
    assert not expected


def test_torchvision_loads_it_as_an_image_folder(protected):
    why = "torchvision is missing: pip install miue_jax[interop]"
    pytest.importorskip("torch", reason=why)
    vision = pytest.importorskip("torchvision.datasets", reason=why)
    root, found = protected
    loaded = vision.ImageFolder(str(root))
    expected = _expected(root, found)
    assert loaded.classes == ["cats", "dogs"]
    assert len(loaded) == len(expected)
    for (path, _), (image, label) in zip(loaded.samples, loaded, strict=True):
        target = "/".join(path.split("/")[-2:])
        name, pixels = expected.pop(target)
        assert loaded.classes[label] == name
        assert np.array_equal(np.asarray(image), pixels)
    assert not expected
