"""Extraction of named layers, for a batch and for a data set over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import Mesh

from miue_jax import features, models
from miue_jax.models.vit import VisionTransformer


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, axis_name="data")(x)
        self.sow("intermediates", "normalized", x)
        return x


class _Net(nn.Module):
    """Written by a user: a nested intermediate, its own layer names."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3))(images)
        self.sow("intermediates", "wave", x)
        x = nn.relu(_Block(name="inner")(x, train=train)).mean((1, 2))
        return x, nn.Dense(3)(x)


def _draw(module, shape):
    """Variables drawn by NumPy: initializing compiles for seconds."""
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)
    )
    rng = np.random.default_rng(1)
    return jax.tree.map(
        # Positive on the whole, so that variances are and no unit is always off.
        lambda spec: jnp.asarray(rng.uniform(0.1, 0.5, spec.shape), spec.dtype),
        shapes,
    )


@pytest.fixture(scope="module")
def net():
    module = _Net()
    return module, _draw(module, (6, 6, 3))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    brightness = rng.permutation(np.linspace(20, 255, 21))[:, None, None, None]
    return rng.uniform(0, brightness, (21, 6, 6, 3)).astype(np.uint8)


def test_features_and_logits_are_the_networks_own(net, images):
    module, variables = net
    batch = images.astype(np.float32) / 255
    expected, logits = module.apply(variables, batch, train=False)
    np.testing.assert_array_equal(features.extract(module, variables, batch), expected)
    np.testing.assert_array_equal(
        features.extract(module, variables, batch, layer="logits"), logits
    )
    np.testing.assert_allclose(
        features.extract(module, variables, jnp.asarray(images)), expected, rtol=1e-5
    )


def test_maps_come_whole_or_pooled(net, images):
    module, variables = net
    whole = features.extract(module, variables, images, layer="wave")
    pooled = features.extract(module, variables, images, layer="wave", pool=True)
    assert whole.shape == (21, 6, 6, 4)
    assert whole.dtype == pooled.dtype == jnp.float32
    np.testing.assert_allclose(pooled, whole.mean((1, 2)), rtol=1e-6)
    flat = features.extract(module, variables, images, pool=True)
    np.testing.assert_array_equal(flat, features.extract(module, variables, images))


def test_bfloat16_layers_come_in_float32(images):
    module = models.create("mlp2", num_classes=3, width=4, dtype=jnp.bfloat16)
    variables = _draw(module, (6, 6, 3))
    hidden = features.extract(module, variables, images, layer="hidden1")
    assert hidden.dtype == jnp.float32
    np.testing.assert_array_equal(hidden, hidden.astype(jnp.bfloat16))


def test_nested_layers_see_running_statistics(net, images):
    module, variables = net
    wave = features.extract(module, variables, images, layer="wave")
    inner = features.extract(module, variables, images, layer="inner/normalized")
    stats = variables["batch_stats"]["inner"]["BatchNorm_0"]
    params = variables["params"]["inner"]["BatchNorm_0"]
    expected = (wave - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(inner, expected, rtol=1e-4, atol=1e-5)


def test_extraction_is_differentiable_in_the_images(net, images):
    module, variables = net

    def total(batch):
        return features.extract(module, variables, batch, layer="wave").sum()

    gradient = jax.grad(total)(jnp.asarray(images, jnp.float32) / 255)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("layer", ["features", "wave"])
@pytest.mark.parametrize("batch_size", [1, 8, 9, 512])
def test_a_data_set_equals_one_batch(net, images, layer, batch_size):
    module, variables = net
    expected = features.extract(module, variables, images, layer=layer)
    assert jax.local_device_count() == 8
    result = features.extract_dataset(
        module, variables, images, layer=layer, batch_size=batch_size
    )
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    means = np.sort(expected.reshape(21, -1).mean(1))
    assert np.diff(means).min() > 1e-3, "too alike to tell apart"


def test_one_device_equals_eight_on_a_network(images):
    module = models.create("resnet10", num_classes=3, width=4, axis_name="data")
    variables = _draw(module, (6, 6, 3))
    mesh = Mesh(np.array(jax.local_devices()[:1]), ("anything",))
    one, eight = (
        features.extract_dataset(
            module, variables, images, layer="stage3", batch_size=8, pool=True, mesh=m
        )
        for m in (mesh, jax.make_mesh((8,), ("data",)))
    )
    assert one.shape == (21, 16)
    assert np.ptp(one, axis=0).max() > 1e-2
    np.testing.assert_allclose(eight, one, rtol=1e-4)


def test_a_repeated_call_compiles_nothing(net, images):
    module, variables = net
    features.extract_dataset(module, variables, images, batch_size=8)
    before = features._extract_jit._cache_size()
    features.extract_dataset(_Net(), variables, images[:19], batch_size=8)
    assert features._extract_jit._cache_size() == before


def test_floating_images_of_any_width_and_none_at_all(net, images):
    module, variables = net
    halves = (images / 255.0).astype(np.float64)
    expected = features.extract_dataset(module, variables, images)
    result = features.extract_dataset(module, variables, halves)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    empty = features.extract_dataset(module, variables, images[:0], layer="wave")
    assert empty.shape == (0, 6, 6, 4)


def test_layer_names_are_in_order(net):
    module, variables = net
    names = features.layer_names(module, variables, (6, 6, 3))
    assert names == ("features", "logits", "wave", "inner/normalized")
    vit = VisionTransformer(2, depth=10, width=8)
    shapes = jax.eval_shape(
        lambda: vit.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
    )
    names = features.layer_names(vit, shapes, (8, 8, 3))
    assert names[2:5] == ("stem", "stage1", "stage2")
    assert names[-1] == "stage10"


def test_unknown_layers_are_refused_with_those_there_are(net, images):
    module, variables = net
    message = r"'waves'; did you mean 'wave'.* Allowed: features, logits, wave, inner/n"
    with pytest.raises(ValueError, match=message):
        features.extract(module, variables, images, layer="waves")
    with pytest.raises(ValueError, match=message):
        features.extract_dataset(module, variables, images, layer="waves")


def test_bad_batches_and_meshes_are_refused(net, images):
    module, variables = net
    with pytest.raises(ValueError, match="at least 1, given 0"):
        features.extract_dataset(module, variables, images, batch_size=0)
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    with pytest.raises(ValueError, match="one axis"):
        features.extract_dataset(module, variables, images, mesh=mesh)


def test_batches_of_large_images_are_smaller(net, images, monkeypatch):
    module, variables = net
    expected = features.extract_dataset(module, variables, images)
    sizes = []
    real = features._extract_jit

    def recorded(*, images, **options):
        sizes.append(images.shape[0])
        return real(images=images, **options)

    monkeypatch.setattr(features, "_extract_jit", recorded)
    monkeypatch.setattr(features, "_VALUES", 2 * images[0].size)
    one = Mesh(np.array(jax.devices()[:1]), ("data",))
    result = features.extract_dataset(module, variables, images, mesh=one)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert set(sizes) == {2}
