"""Protectors as functions: under `jit` and `vmap`, of any images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import miue_jax as mj
from miue_jax import protector
from miue_jax.protector import Settings, clusters, full_size


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    settings = Settings(strength=6.0, num_codes=3, width=8, size=32)
    values = np.random.default_rng(0).normal(size=(30, clusters.SIZE))
    groups = clusters.find(values.astype(np.float32), 3, seed=0)
    make = jax.jit(lambda key: protector.untrained(key, settings))
    found = make(jax.random.key(0))
    path = tmp_path_factory.mktemp("mine") / "mine.safetensors"
    protector.save(path, protector.Protector(found.params, groups, settings))
    return mj.Protector.load(path)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (3, 32, 48, 3), np.uint8)


# Compiled once: by itself, JAX compiles each operation for each shape.
_call = jax.jit(lambda protector, images, codes=None: protector(images, codes))


def test_nothing_leaves_the_budget(made, images):
    protected = np.asarray(_call(made, images)) * 255
    assert protected.shape == images.shape
    assert protected.dtype == np.float32
    change = protected - images
    assert 0.5 < np.abs(change).max() <= 6.001
    assert protected.min() >= 0
    assert protected.max() <= 255.001


def test_whole_gray_levels_and_floats_are_the_same_images(made, images):
    floats = images.astype(np.float32) / 255
    for other in (floats, floats.astype(np.float64), jnp.asarray(images)):
        np.testing.assert_allclose(_call(made, other), _call(made, images), atol=1e-5)
    half = jax.eval_shape(made, jnp.asarray(floats, jnp.bfloat16))
    assert half.dtype == jnp.float32


def test_it_is_a_pytree_for_jit(made, images):
    codes = jnp.array([0, 1, 2])
    np.testing.assert_allclose(
        _call(made, images, codes), made(images, codes), atol=2e-5
    )
    np.testing.assert_allclose(_call(made, images), made(images), atol=2e-5)
    assert jax.tree.map(jnp.zeros_like, made).settings == made.settings


def test_vmap_is_a_loop(made, images):
    batches = np.stack([images, images[:, ::-1]])
    codes = jnp.array([[0, 1, 2], [2, 1, 0]])
    together = jax.jit(jax.vmap(lambda x, c: made(x, c)))(batches, codes)
    alone = jnp.stack([_call(made, x, c) for x, c in zip(batches, codes, strict=True)])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_pictures_do_not_depend_on_others_in_their_batch(made, images):
    together = _call(made, images)
    alone = jnp.concatenate([_call(made, image[None]) for image in images])
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_it_has_a_gradient(made, images):
    floats = jnp.asarray(images, jnp.float32) / 255

    def total(params):
        changed = protector.Protector(params, made.clusters, made.settings)
        return jnp.sum(changed(floats, jnp.array([0, 1, 2])) ** 2)

    found = jax.jit(jax.grad(total))(made.params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(found))


def test_gray_pictures_stay_gray(made, images):
    gray = np.broadcast_to(images[..., :1], images.shape)
    protected = np.asarray(_call(made, gray))
    assert np.array_equal(protected[..., 0], protected[..., 1])
    assert np.array_equal(protected[..., 0], protected[..., 2])
    assert np.abs(protected - gray / 255).max() > 0
    # Each for itself.
    mixed = np.stack([images[0], gray[1], images[2]])
    protected = np.asarray(_call(made, mixed))
    assert np.array_equal(protected[1, ..., 0], protected[1, ..., 1])
    assert not np.array_equal(protected[0, ..., 0], protected[0, ..., 1])


def test_codes_decide_on_the_perturbation(made, images):
    one, other = (_call(made, images, jnp.full(3, code)) for code in (0, 1))
    assert np.abs(one - other).max() > 0.001
    codes = jax.jit(lambda images: made.assign(images))(images)
    np.testing.assert_allclose(
        _call(made, images), _call(made, images, codes), atol=2e-5
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 17, 23), (1, 33, 16), (0, 16, 16)])
def test_images_of_all_sizes(made, shape):
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert _call(made, images).shape == images.shape


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((32, 32, 3), np.uint8), r"shape \(B, H, W, 3\), given \(32, 32, 3\)"),
        (np.zeros((1, 32, 32, 1), np.uint8), r"given \(1, 32, 32, 1\)"),
        (np.zeros((1, 3, 32, 32), np.uint8), r"given \(1, 3, 32, 32\)"),
        (np.zeros((1, 32, 32, 3), np.int32), r"floating or uint8, given int32"),
        (np.zeros((1, 32, 32, 3), bool), r"floating or uint8, given bool"),
    ],
    ids=str,
)
def test_images_that_are_none(made, images, message):
    for call in (made, made.delta, made.assign):
        with pytest.raises(ValueError, match=message):
            call(images)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([0, 1], r"codes must be 3 integers, given int32 of shape \(2,\)"),
        ([[0, 1, 2]], r"of shape \(1, 3\)"),
        (1, r"of shape \(\)"),
        ([0.0, 1.0, 2.0], r"given float32"),
        ([0, 1, 3], r"a code is 3; allowed: 0 to 2"),
        ([0, -1, 3], r"a code is -1; allowed: 0 to 2"),
    ],
    ids=str,
)
def test_codes_that_are_none(made, images, codes, message):
    with pytest.raises(ValueError, match=message):
        made(images, jnp.array(codes))


# Clusters.


def test_pictures_of_a_color_are_a_cluster(recwarn):
    rng = np.random.default_rng(0)
    colors = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])
    kinds = np.repeat([0, 1, 2], 10)
    noise = rng.normal(0, 10, (30, 32, 32, 3))
    images = np.clip(colors[kinds][:, None, None] + noise, 0, 255) / 255
    found = clusters.find(np.asarray(clusters.describe(jnp.array(images))), 3, seed=0)
    codes = np.asarray(clusters.nearest(found, jnp.array(images)))
    assert len(found.centers) == 3
    assert all(len(set(codes[kinds == kind])) == 1 for kind in range(3))
    assert len(set(codes)) == 3
    # They are numbered as pictures come.
    assert codes[0] == 0


@pytest.mark.parametrize("count", [1, 2, 10, 50])
def test_clusters_that_stay_empty_are_left_out(count, recwarn):
    values = np.repeat(np.eye(4, clusters.SIZE, dtype=np.float32), 5, axis=0)
    for seed in range(5):
        found = clusters.find(values, count, seed=seed)
        assert 1 <= len(found.centers) <= min(count, 4)
        assert np.isfinite(found.centers).all()
    assert not recwarn.list


def test_one_picture_is_one_cluster():
    found = clusters.find(np.ones((1, clusters.SIZE), np.float32), 10, seed=0)
    assert found.centers.shape == (1, clusters.SIZE)
    assert np.isfinite(found.centers).all()


# At full size.


def test_a_gray_picture_is_changed_in_its_one_channel():
    picture = np.full((200, 100, 1), 100, np.uint8)
    changed = full_size.lay(picture, lambda x: np.full(x.shape, 3 / 255), size=32)
    assert changed.shape == picture.shape
    assert np.unique(changed).tolist() == [103]


@pytest.mark.parametrize("size", [(16, 16), (300, 16), (97, 4000), (641, 479)])
def test_what_is_laid_on_stays_within_the_budget_of_the_small_one(size):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
    seen = []

    def delta(images):
        seen.append(images.shape)
        return rng.uniform(-8, 8, images.shape) / 255

    changed = full_size.lay(picture, delta, size=32)
    assert np.abs(changed.astype(int) - picture).max() <= 8
    # Few programs are compiled.
    assert all(side % 8 == 0 for side in seen[0][1:3])


def test_who_makes_the_picture_small_again_sees_the_small_perturbation():
    rng = np.random.default_rng(0)
    small = np.kron(rng.uniform(-8, 8, (8, 8, 3)), np.ones((4, 4, 1)))
    picture = np.full((320, 320, 3), 128, np.uint8)
    changed = full_size.lay(picture, lambda x: small[None] / 255, size=32)
    again = full_size.thumbnail(changed, 32).astype(float) - 128
    assert np.corrcoef(again.ravel(), small.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("size", [(15, 300), (300, 15), (1, 1)])
def test_pictures_that_are_too_small_are_refused(size):
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    with pytest.raises(ValueError, match=f"is {size[0]}x{size[1]}: only pictures of"):
        full_size.lay(picture, np.zeros_like, size=32)
