import os

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from miue_jax.data import folder

RNG = np.random.default_rng(0)


def write(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def color(height=6, width=4):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth():
    """An image that JPEG hardly changes."""
    ramp = np.linspace(60, 180, 16)
    image = np.stack([np.add.outer(ramp, ramp) / 2] * 3, axis=-1)
    return image.astype(np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two classes of two color images each."""
    for name in ("dog/b.png", "dog/a.PNG", "cat/1.png", "cat/0.png"):
        write(tmp_path / name, color())
    return tmp_path


def test_png_pixels_come_back_in_sorted_order(root):
    dataset = folder.load(root)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.images.shape == (4, 6, 4, 3)
    files = ("cat/0.png", "cat/1.png", "dog/a.PNG", "dog/b.png")
    for image, name in zip(dataset.images, files, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(root / name)), name)


def test_jpeg_pixels_come_back_nearly(tmp_path):
    for name in ("a/0.jpg", "b/0.jpeg", "b/1.JPG"):
        write(tmp_path / name, smooth(), quality=98)
    images = folder.load(tmp_path).images.astype(int)
    assert images.shape == (3, 16, 16, 3)
    assert np.abs(images - smooth()).max() <= 3


def test_splits_share_the_classes_of_train(tmp_path):
    for name in ("train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/0.png"):
        write(tmp_path / name, color())
    train, test = folder.load(tmp_path, "train"), folder.load(tmp_path, "test")
    assert train.labels.tolist() == [0, 1, 2]
    assert test.labels.tolist() == [2]
    assert test.class_names == train.class_names == ("a", "b", "c")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train/0.png", "plane/0.png"):
        write(tmp_path / name, color())
    assert folder.load(tmp_path).class_names == ("plane", "train")


def test_flat_splits_are_no_two_classes(tmp_path):
    for name in ("train/0.png", "train/1.png", "test/0.png"):
        write(tmp_path / name, color())
    message = r"holds only test and train, without class folders.*train/<class>/"
    for split in folder.SPLITS:
        with pytest.raises(ValueError, match=message):
            folder.load(tmp_path, split)
    (tmp_path / "test/0.png").unlink()
    (tmp_path / "test").rmdir()
    with pytest.raises(ValueError, match="holds only train, without class folders"):
        folder.load(tmp_path)


def test_gray_images_stay_gray_only_together(root):
    gray = color()[..., 0]
    for name in ("cat/0.png", "cat/1.png", "dog/a.PNG"):
        write(root / name, gray)
    mixed = folder.load(root).images
    assert mixed.shape == (4, 6, 4, 3)
    np.testing.assert_array_equal(mixed[0], np.repeat(gray[..., None], 3, axis=-1))
    write(root / "dog/b.png", gray)
    images = folder.load(root).images
    assert images.shape == (4, 6, 4, 1)
    np.testing.assert_array_equal(images[3, ..., 0], gray)


def test_opaque_alpha_is_dropped_and_transparency_refused(root):
    image = np.dstack([color(), np.full((6, 4), 255, np.uint8)])
    write(root / "cat/0.png", image)
    np.testing.assert_array_equal(folder.load(root).images[0], image[..., :3])
    image[2, 2, 3] = 254
    write(root / "cat/0.png", image)
    with pytest.raises(ValueError, match=r"cat.0\.png: is partly transparent"):
        folder.load(root)


def test_a_photograph_is_turned_upright(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown rotated by a quarter
    sideways = color(4, 6)
    write(root / "cat/0.png", sideways, exif=exif)
    np.testing.assert_array_equal(folder.load(root).images[0], np.rot90(sideways, -1))


def test_hidden_and_other_files_are_no_images(root):
    (root / ".git").mkdir()
    (root / "README.txt").write_text("about")
    (root / "cat/notes.txt").write_text("about")
    (root / "cat/.DS_Store.png").write_bytes(b"")
    write(root / ".thumbnail.png", color())
    write(root / "cat/.thumbnails/0.png", color())
    (root / "cat/.link.png").symlink_to(root / "nowhere")
    (root / "cat/notes").mkdir()
    (root / "cat/notes/about.txt").write_text("about")
    assert len(folder.load(root).images) == 4


def test_an_unreadable_image_is_named(root):
    content = (root / "dog/a.PNG").read_bytes()
    for broken in (b"", b"no image", content[: len(content) // 2]):
        (root / "dog/a.PNG").write_bytes(broken)
        with pytest.raises(ValueError, match=r"dog.a\.PNG: not a readable image"):
            folder.load(root)


@pytest.mark.parametrize("format", ["WEBP", "GIF", "BMP", "TIFF", "JPEG"])
def test_the_ending_of_an_image_may_lie(root, format):
    write(root / "dog/a.PNG", color(), format=format)
    assert folder.load(root).images.shape == (4, 6, 4, 3)


def test_a_truncated_jpeg_is_named(tmp_path):
    for name in ("a/0.jpg", "b/0.jpg"):
        write(tmp_path / name, smooth())
    content = (tmp_path / "b/0.jpg").read_bytes()
    (tmp_path / "b/0.jpg").write_bytes(content[:-40])
    with pytest.raises(ValueError, match=r"b.0\.jpg: not a readable image"):
        folder.load(tmp_path)


def test_mixed_sizes_name_both_files(root):
    write(root / "dog/b.png", color(6, 5))
    message = r"dog.b\.png: is 5x6, but .*cat.0\.png is 4x6"
    with pytest.raises(ValueError, match=message):
        folder.load(root)


def test_more_than_eight_bits_are_refused(root):
    write(root / "dog/b.png", color()[..., 0].astype(np.uint16) * 200)
    with pytest.raises(ValueError, match=r"dog.b\.png: has more than 8 bits"):
        folder.load(root)


def test_images_of_other_formats_are_not_skipped_in_silence(root):
    write(root / "dog/c.bmp", color())
    with pytest.raises(ValueError, match=r"dog.c\.bmp: only \.png, \.jpg, \.jpeg"):
        folder.load(root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loose.PNG", r"loose\.PNG: lies beside the class folders"),
        ("cat/more/2.jpg", r"2\.jpg: lies deeper than in .*cat"),
        ("cat/more/even/2.png", r"2\.png: lies deeper than in .*cat"),
    ],
)
def test_images_elsewhere_are_not_skipped_in_silence(root, name, message):
    write(root / name, color())
    with pytest.raises(ValueError, match=message):
        folder.load(root)


def test_images_beside_the_classes_of_a_split_are_not_skipped(tmp_path):
    for name in ("train/a/0.png", "train/b/0.png", "train/loose.png"):
        write(tmp_path / name, color())
    with pytest.raises(ValueError, match=r"train.loose\.png: lies beside"):
        folder.load(tmp_path)


@pytest.mark.parametrize("name", ["cat/2.png", "bird"])
def test_links_to_nothing_are_not_skipped_in_silence(root, name):
    (root / name).symlink_to(root / "nowhere")
    with pytest.raises(ValueError, match=rf"{name}: is a link to nothing"):
        folder.load(root)


def test_missing_images_and_classes_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        folder.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no class folders"):
        folder.load(tmp_path)
    write(tmp_path / "cat/0.png", color())
    with pytest.raises(
        ValueError, match="two class folders are needed, got only 'cat'"
    ):
        folder.load(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match=r"dog: holds no \.png"):
        folder.load(tmp_path)


def test_missing_splits_and_foreign_classes_are_named(tmp_path, root):
    with pytest.raises(ValueError, match="has no 'test' split"):
        folder.load(root, "test")
    split = tmp_path / "split"
    for name in ("train/a/0.png", "train/b/0.png"):
        write(split / name, color())
    with pytest.raises(ValueError, match=r"has no 'test' folder .* only train"):
        folder.load(split, "test")
    write(split / "test/z/0.png", color())
    with pytest.raises(ValueError, match="class 'z' is not in"):
        folder.load(split, "test")


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_validation_folder_is_the_test_split(tmp_path, name):
    for split, level in (("train", 10), (name, 20)):
        for label in ("a", "b"):
            image = np.full((8, 8, 3), level, np.uint8)
            write(tmp_path / split / label / "0.png", image)
    assert (folder.load(tmp_path).images == 10).all()
    assert (folder.load(tmp_path, "test").images == 20).all()
    write(tmp_path / "test" / "a" / "0.png", np.full((8, 8, 3), 30, np.uint8))
    assert (folder.load(tmp_path, "test").images == 30).all()


@pytest.mark.parametrize("place", ["cat", "."])
def test_what_is_named_like_an_image_but_is_none_is_not_skipped(root, place):
    (root / place / "x.png").mkdir()
    with pytest.raises(ValueError, match=r"x\.png: is a folder with the name of an"):
        folder.load(root)
    (root / place / "x.png").rmdir()
    os.mkfifo(root / place / "x.png")
    with pytest.raises(ValueError, match=r"x\.png: is no regular file with the name"):
        folder.load(root)


def test_images_beyond_the_memory_are_refused_before_they_are_decoded(
    root, monkeypatch
):
    monkeypatch.setenv("MIUE_MEMORY", "1e-6")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    with pytest.raises(ValueError, match=r"4 images of 4x6 would need .* MIUE_MEMORY"):
        folder.load(root)


def test_a_huge_picture_among_small_ones_is_not_decoded(root, monkeypatch):
    huge = (300, 300)
    Image.new("1", huge).save(root / "dog" / "b.png")
    decoded = []
    real = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(
        PngImagePlugin.PngImageFile,
        "load",
        lambda image: decoded.append(image.size) or real(image),
    )
    with pytest.raises(ValueError, match=r"b\.png: is 300x300, but .* is 4x6"):
        folder.load(root)
    assert decoded
    assert huge not in decoded


def test_large_pictures_are_measured_by_the_memory_alone(root, monkeypatch, recwarn):
    """Pillow warns about pictures of many pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert folder.load(root).images.shape == (4, 6, 4, 3)
    assert not recwarn.list


def test_programs_that_draw_a_picture_are_not_run(root):
    (root / "dog" / "b.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6"
    )
    with pytest.raises(ValueError, match=r"b\.png: not a readable image"):
        folder.load(root)
