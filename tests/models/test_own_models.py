"""Models of user-defined functions."""

import textwrap

import jax.numpy as jnp
import pytest

from miue_jax import models
from miue_jax.models.testing import check_model

OWN = """
    import jax.numpy as jnp
    from flax import linen as nn


    class Tiny(nn.Module):
        num_classes: int
        width: int = 4

        @nn.compact
        def __call__(self, images, *, train):
            x = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
            return x, nn.Dense(self.num_classes)(x)


    class Single(Tiny):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(self.num_classes)(images.reshape(len(images), -1))


    def tiny(num_classes, width=4):
        return Tiny(num_classes, width)


    def fixed(num_classes):
        return Tiny(num_classes)


    def anything(num_classes, **options):
        assert set(options) >= {"dtype", "axis_name", "convolution"}
        return Tiny(num_classes)


    def no_module(num_classes):
        return 3


    def broken(num_classes):
        raise KeyError("mine")
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", ["tiny", "fixed", "anything", "Tiny"])
def test_they_keep_the_contract_of_a_model(name):
    net = models.create(f"own_models:{name}", num_classes=3, dtype=jnp.float32)
    check_model(net, image_shape=(8, 8, 3), num_classes=3)


def test_they_are_given_what_they_accept():
    assert models.create("own_models:tiny", num_classes=3, width=7).width == 7
    with pytest.raises(ValueError, match="'own_models:fixed' has no width, given 7"):
        models.create("own_models:fixed", num_classes=3, width=7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_models:no_module", "must return a Flax module, got 3"),
        ("own_models:broken", "'own_models:broken': KeyError: 'mine'"),
        ("own_models:missing", "cannot be imported"),
        ("no_such_module:f", "cannot be imported"),
    ],
)
def test_what_fails_names_the_function(name, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=3)


def test_the_contract_says_what_is_broken():
    import own_models

    net = own_models.Single(3)
    with pytest.raises(AssertionError, match=r"must return \(features, logits\)"):
        check_model(net, image_shape=(8, 8, 3), num_classes=3)
