import importlib.util

import numpy as np
import pytest

from miue_jax.data import load, tfds

needs_tfds = pytest.mark.skipif(not tfds.installed(), reason="needs TFDS")


@pytest.fixture
def mock_data():
    testing = pytest.importorskip("tensorflow_datasets", reason="needs TFDS").testing
    with testing.mock_data(num_examples=12):
        yield


@pytest.mark.parametrize(
    ("name", "shape", "num_classes"),
    [
        ("cifar10", (32, 32, 3), 10),
        ("cifar100", (32, 32, 3), 100),
        ("svhn_cropped", (32, 32, 3), 10),
        ("mnist", (28, 28, 1), 10),
        ("imagenet_resized/32x32", (32, 32, 3), 1000),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_and_labels_by_name(mock_data, name, shape, num_classes, split):
    dataset = load(name, split)
    assert dataset.images.shape == (12, *shape)
    assert dataset.images.dtype == np.uint8
    assert len(np.unique(dataset.images)) > 1
    assert dataset.labels.dtype == np.int32
    assert len(dataset.class_names) == num_classes


def test_the_order_and_the_labels_are_those_of_tfds(mock_data):
    import tensorflow_datasets

    dataset = tfds.load("cifar10", "train")
    source = tensorflow_datasets.data_source("cifar10", split="train", download=False)
    for index, example in enumerate(source):
        np.testing.assert_array_equal(dataset.images[index], example["image"])
        assert dataset.labels[index] == example["label"]


def test_images_of_several_sizes_are_refused(mock_data):
    with pytest.raises(ValueError, match=r"'imagenette': image .* must have one size"):
        tfds.load("imagenette")


def test_what_is_no_image_classification_is_refused(mock_data):
    with pytest.raises(ValueError, match=r"not a set of images .* title \(Text\)"):
        tfds.load("ag_news_subset")


@needs_tfds
def test_unprepared_data_say_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="'cifar10' is not prepared in") as caught:
        load("cifar10", data_dir=tmp_path)
    message = str(caught.value)
    assert "pip install tensorflow-cpu" in message
    assert f"tfds.builder('cifar10', data_dir={str(tmp_path)!r}" in message
    assert "file_format='array_record').download_and_prepare()" in message
    assert "\n" not in message


@needs_tfds
def test_unknown_configurations_and_versions_are_refused(tmp_path):
    for name in ("imagenet_resized/99x99", "cifar10:9.9.9", "cifar10/"):
        with pytest.raises(ValueError, match=f"TFDS cannot build '{name}': .+"):
            tfds.load(name, data_dir=tmp_path)


@needs_tfds
def test_data_prepared_on_disk_are_read_without_tensorflow(tmp_path):
    import tensorflow_datasets

    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)

    class PreparedWithoutTensorFlow(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")
        name = "prepared_without_tensorflow"

        def _info(self):
            features = tensorflow_datasets.features
            return tensorflow_datasets.core.DatasetInfo(
                builder=self,
                features=features.FeaturesDict(
                    {
                        "image": features.Image(shape=(4, 4, 3), encoding_format="png"),
                        "label": features.ClassLabel(names=["no", "yes"]),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            from PIL import Image

            for index, image in enumerate(images):
                yield index, {"image": Image.fromarray(image), "label": index % 2}

    builder = PreparedWithoutTensorFlow(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    dataset = tfds.load("prepared_without_tensorflow", data_dir=tmp_path)
    # TFDS shuffles once, while preparing.
    order = [np.flatnonzero((images == i).all((1, 2, 3)))[0] for i in dataset.images]
    assert sorted(order) == list(range(8))
    assert dataset.labels.tolist() == [index % 2 for index in order]
    assert dataset.class_names == ("no", "yes")
    with pytest.raises(ValueError, match="has the splits train, not 'test'"):
        tfds.load("prepared_without_tensorflow", "test", data_dir=tmp_path)


def test_without_tfds_names_say_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "tensorflow_datasets" else find(name),
    )
    assert tfds.names() == ()
    for name in ("cifar10", "imagenet_resized/32x32"):
        with pytest.raises(ValueError, match=r"pip install miue_jax\[tfds\]"):
            load(name)
    with pytest.raises(ValueError, match=r"pip install miue_jax\[tfds\]"):
        tfds.load("cifar10")
    with pytest.raises(ValueError, match="did you mean 'shapes'"):
        load("shaeps")


def test_images_beyond_the_memory_are_refused(mock_data, monkeypatch):
    monkeypatch.setenv("MIUE_MEMORY", "1e-6")
    with pytest.raises(ValueError, match="'cifar10': its 12 images would need "):
        tfds.load("cifar10")
