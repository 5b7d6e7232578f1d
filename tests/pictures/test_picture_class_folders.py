"""Class folders of pictures that are not plain, and their way to the export."""

import json
import pickle

import numpy as np
import picture_files
import pytest
from PIL import Image

from miue_jax.budget import Budget
from miue_jax.data import artifact, dataset, exchange, folder


@pytest.fixture
def root(tmp_path):
    """Two classes of two color images each."""
    for seed, name in enumerate(("dog/b.png", "dog/a.PNG", "cat/1.png", "cat/0.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture_files.photo(6, 4, seed)).save(tmp_path / name)
    return tmp_path


def test_sixteen_bits_of_color_are_refused_as_those_of_gray(root):
    """Pillow cuts them to 8 unsaid."""
    picture_files.png(
        root / "dog" / "b.png", picture_files.levels(16, 3)[:6, :4], 16, 2
    )
    with pytest.raises(ValueError, match=r"dog.b\.png: has more than 8 bits"):
        folder.load(root)


@pytest.mark.parametrize("place", [".", "cat", "cat/deeper"])
@pytest.mark.parametrize(
    "suffix", ["heic", "HEIC", "dng", "NEF", "jxl", "avif", "webp", "svg", "mp4", "psd"]
)
def test_other_pictures_and_films_are_not_skipped_in_silence(root, place, suffix):
    path = root / place / f"holiday.{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"content")
    with pytest.raises(ValueError, match=rf"holiday\.{suffix}: .*only \.png, \.jpg"):
        folder.load(root)


def test_pixels_of_another_color_profile_become_srgb(root):
    """What is published has no profile, and shows what was seen."""
    red = Image.new("RGB", (4, 6), (200, 60, 50))
    red.save(root / "cat/0.png", icc_profile=picture_files.display_p3())
    red.save(root / "cat/1.png", icc_profile=picture_files.srgb())
    red.save(root / "dog/a.PNG", icc_profile=b"damaged")
    images = folder.load(root).images
    assert images[0, 0, 0].tolist() == [219, 37, 34]
    assert images[1, 0, 0].tolist() == images[2, 0, 0].tolist() == [200, 60, 50]


def test_images_have_the_names_of_their_files(root):
    named = folder.load(root)
    assert dataset.file_names(named) == (
        *("cat/0.png", "cat/1.png", "dog/a.PNG", "dog/b.png"),
    )
    part = dataset.subset(named, per_class=1, seed=1)
    for name, image in zip(dataset.file_names(part), part.images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(root / name)))
    images, labels, class_names = named
    assert dataset.file_names(dataset.Dataset(images, labels, class_names)) == ()
    assert dataset.file_names(named._replace(images=images)) == ()
    copy = pickle.loads(pickle.dumps(named))
    assert dataset.file_names(copy) == dataset.file_names(named)


def protect(clean):
    levels = np.random.default_rng(1).integers(-8, 9, clean.images.shape)
    levels = np.clip(clean.images + levels, 0, 255) - clean.images
    delta = (levels / 255).astype(np.float32)
    return artifact.build(clean, delta, budget=Budget("linf", 8), metadata={}), levels


def test_exports_have_the_names_of_the_source(root, tmp_path):
    picture = Image.fromarray(picture_files.photo(6, 4, 9))
    picture.save(root / "cat/0.jpg", quality=100, subsampling=0)
    picture.save(root / "cat/con.png")
    clean = folder.load(root)
    made, levels = protect(clean)
    files = ["cat/0.jpg", "cat/0.png", "cat/1.png", "cat/con.png"]
    assert made.metadata["files"] == [*files, "dog/a.PNG", "dog/b.png"]
    artifact.save(tmp_path / "a.npz", made)
    exchange.export_png_folder(artifact.load(tmp_path / "a.npz"), tmp_path / "png")
    metadata = json.loads((tmp_path / "png/metadata.json").read_text())
    assert metadata["files"] == made.metadata["files"]
    assert metadata["exported"] == [
        *("cat/0.png", "cat/0_2.png", "cat/1.png", "cat/_con.png"),
        *("dog/a.png", "dog/b.png"),
    ]
    assert str(tmp_path) not in json.dumps(metadata)
    for name, image in zip(metadata["exported"], made.dataset.images, strict=True):
        with Image.open(tmp_path / "png" / name) as found:
            np.testing.assert_array_equal(np.asarray(found), image)
    delta = exchange.import_perturbation(tmp_path / "png", clean)
    np.testing.assert_array_equal(np.rint(delta * 255), levels)


def test_data_without_names_are_described_as_before(root):
    clean = folder.load(root)
    plain = dataset.Dataset(*clean)
    named, unnamed = protect(clean)[0].metadata, protect(plain)[0].metadata
    assert "files" not in unnamed
    assert {**named, "files": None} == {**unnamed, "files": None}
    assert dataset.fingerprint(clean) == dataset.fingerprint(plain)


@pytest.mark.parametrize("text", ["{", '{"exported": 3}', '{"exported": [1]}'])
def test_damaged_lists_of_an_export_are_named(root, tmp_path, text):
    clean = folder.load(root)
    exchange.export_png_folder(protect(clean)[0], tmp_path / "png")
    (tmp_path / "png/metadata.json").write_text(text)
    with pytest.raises(ValueError, match=r"metadata\.json"):
        exchange.import_perturbation(tmp_path / "png", clean)


@pytest.mark.parametrize(
    "files", [["../../x.png"] * 4, ["/etc/x", "..", "", "."], ["a/b\0c.png"] * 4]
)
def test_hostile_names_stay_in_the_export(root, tmp_path, files):
    made, _ = protect(folder.load(root))
    made.metadata["files"] = files
    exchange.export_png_folder(made, tmp_path / "png")
    found = sorted((tmp_path / "png").rglob("*.png"))
    assert len(found) == 4
    assert all(path.parent.parent == tmp_path / "png" for path in found)


def test_names_of_another_number_are_refused(root, tmp_path):
    made, _ = protect(folder.load(root))
    made.metadata["files"] = ["a.png"]
    with pytest.raises(ValueError, match="name 1 files for 4 images"):
        exchange.export_png_folder(made, tmp_path / "png")
