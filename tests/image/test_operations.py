"""Operations chosen image by image, by name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax.image import affine, color, operations

_apply = jax.jit(operations.apply_chosen, static_argnums=1)
_resample = jax.jit(affine.resample)

# An amount for each, in its own unit.
_AMOUNTS = {
    "posterize": 2.0,
    "solarize": 0.4,
    "brightness": 1.7,
    "contrast": 0.3,
    "color": 0.2,
    "sharpness": 1.8,
    "rotate": 25.0,
    "shear_x": 0.3,
    "shear_y": -0.3,
    "translate_x": 2.0,
    "translate_y": 3.0,
}
_MAPS = {
    "rotate": affine.rotation,
    "shear_x": affine.shear_x,
    "shear_y": affine.shear_y,
    "translate_x": affine.translation_x,
    "translate_y": affine.translation_y,
}


def _alone(name, image):
    image = image[None]
    if name == "identity":
        return image[0]
    if name in _MAPS:
        maps = _MAPS[name](jnp.array([_AMOUNTS[name]]))
        return _resample(image, maps)[0]
    function = getattr(color, name)
    return function(image, *([_AMOUNTS[name]] if name in _AMOUNTS else []))[0]


def _images(count, channels=3):
    # Of a narrow range, so that each operation has something to change.
    shape = (count, 16, 20, channels)
    return jax.random.uniform(jax.random.key(0), shape, minval=0.2, maxval=0.7)


def test_every_image_gets_its_own_operation_and_amount():
    names = operations.OPERATIONS
    assert set(names) == {"identity", "autocontrast", "equalize", "invert", *_AMOUNTS}
    order = np.random.default_rng(0).permutation(len(names))
    images = _images(len(names))
    amounts = jnp.array([_AMOUNTS.get(names[i], 0.0) for i in order])
    result = _apply(images, names, jnp.asarray(order), amounts)
    for image, i, changed in zip(images, order, result, strict=True):
        expected = _alone(names[i], image)
        np.testing.assert_allclose(changed, expected, atol=1e-5, err_msg=names[i])
        if names[i] != "identity":
            assert np.abs(changed - image).max() > 0.05, f"{names[i]} changed nothing"


def test_choice_counts_among_the_names_given():
    images = _images(2, channels=1)
    names = ("translate_x", "invert")
    choice = jnp.array([1, 0])
    result = _apply(images, names, choice, jnp.full(2, 2.0))
    np.testing.assert_allclose(result[0], _alone("invert", images[0]))
    np.testing.assert_allclose(result[1], _alone("translate_x", images[1]), atol=1e-6)


def test_results_stay_in_range():
    names = operations.OPERATIONS
    images = _images(len(names)).at[:, ::2].set(1).at[:, 1::4].set(0)
    choice, amounts = jnp.arange(len(names)), jnp.full(len(names), 1.9)
    result = _apply(images, names, choice, amounts)
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_and_shape_are_kept(dtype):
    names = operations.OPERATIONS
    with jax.enable_x64(True):
        images = jax.ShapeDtypeStruct((5, 6, 7, 3), dtype)
        apply = functools.partial(operations.apply_chosen, operations=names)
        result = jax.eval_shape(
            apply, images, choice=jnp.arange(5), amounts=jnp.ones(5, jnp.float32)
        )
    assert (result.dtype, result.shape) == (images.dtype, images.shape)


def test_unknown_operation():
    choice = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"unknown operation 'rotation'.*'rotate'"):
        operations.apply_chosen(
            np.zeros((1, 8, 8, 3)), ("rotation",), choice, np.zeros(1)
        )
