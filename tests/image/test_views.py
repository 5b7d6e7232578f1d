"""Views: what is drawn, what is seen, and which gradients pass."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import defenses
from miue_jax.image import color, resize, views
from miue_jax.image.jpeg import jpeg
from miue_jax.image.rand_augment_draws import NAMES
from miue_jax.image.views import KINDS, ViewsConfig

SHAPE = (16, 16, 3)


def _images(count=8, seed=0):
    values = np.random.default_rng(seed).uniform(0.25, 0.75, (count, *SHAPE))
    return jnp.asarray(values, jnp.float32)


def _draw(count=8, seed=0, hardness=1.0, **settings):
    config = ViewsConfig(**settings)
    return views.draw(jax.random.key(seed), count, SHAPE, config, hardness), config


def test_by_default_images_are_seen_as_they_are():
    draws, config = _draw()
    assert config.plain == 1
    np.testing.assert_array_equal(views.see(_images(), draws, config), _images())


def test_shares_are_what_was_asked_for_and_the_rest_is_plain():
    draws, config = _draw(4000, jpeg=0.5, grayscale=0.2, cutout=0.1)
    shares = np.bincount(draws.kind, minlength=len(KINDS) + 1) / 4000
    for name, share in zip((*KINDS, "plain"), shares, strict=True):
        assert abs(share - getattr(config, name)) < 0.03, name
    assert set(draws.strengths) == {"jpeg", "grayscale", "cutout"}


def test_every_image_is_seen_through_its_own_kind_alone():
    draws, config = _draw(64, grayscale=0.4, cutout=0.4)
    images = _images(64)
    seen = np.asarray(views.see(images, draws, config))
    gray = np.asarray(draws.kind == KINDS.index("grayscale"))
    plain = np.asarray(draws.kind == len(KINDS))
    np.testing.assert_array_equal(seen[plain], images[plain])
    np.testing.assert_allclose(seen[gray], color.color(images[gray], 0.0), atol=1e-6)
    black = (seen == 0).all(-1).any((1, 2))
    np.testing.assert_array_equal(black, ~gray & ~plain)


def test_jpeg_is_the_codecs_with_qualities_in_their_range():
    draws, config = _draw(256, jpeg=1.0, min_quality=5, max_quality=40, full_color=0.5)
    quality, subsampled = draws.strengths["jpeg"]
    assert (int(quality.min()), int(quality.max())) == (5, 40)
    assert 0.4 < float(subsampled.mean()) < 0.6
    seen = views.see(_images(256), draws, config)
    coded = jpeg(_images(256), quality=quality, subsampled=subsampled)
    np.testing.assert_allclose(seen, coded, atol=1e-6)


def test_fewer_gray_levels_are_the_defenses():
    draws, config = _draw(bit_depth=1.0, min_bits=2)
    images = jnp.asarray(np.rint(255 * _images()) / 255, jnp.float32)
    seen = np.rint(255 * views.see(images, draws, config)).astype(np.uint8)
    levels = np.rint(255 * images).astype(np.uint8)
    for i, bits in enumerate(draws.strengths["bit_depth"].tolist()):
        defense = defenses.bit_depth(SHAPE, 2, bits=bits)
        np.testing.assert_array_equal(
            seen[i], defense.purify(None, levels[i : i + 1], None)[0]
        )


def test_sizes_are_resizing_down_and_up():
    draws, config = _draw(resize=1.0, min_size=0.5)
    seen = views.see(_images(), draws, config)
    for i, choice in enumerate(draws.strengths["resize"].tolist()):
        small = resize.sides(16, 0.5)[choice]
        down = jax.image.resize(_images()[i], (small, small, 3), "linear")
        expected = jax.image.resize(down, SHAPE, "linear")
        np.testing.assert_allclose(seen[i], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["cutmix", "mixup"])
def test_mixed_images_have_mixed_labels(name):
    draws, config = _draw(64, **{name: 0.5})
    labels = jnp.arange(64)
    ramp = jnp.broadcast_to(labels[:, None, None, None] / 64, (64, *SHAPE))
    seen = views.see(ramp, draws, config)
    targets = views.targets(labels, draws, config, 64)
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(seen.mean((1, 2, 3)), targets @ (labels / 64), atol=1e-4)
    assert 16 < int((targets.max(1) < 1).sum()) < 48
    plain, config = _draw(64, jpeg=0.5)
    np.testing.assert_array_equal(views.targets(labels, plain, config, 64), labels)


def test_strengths_spread_from_the_mildest_as_hardness_rises():
    settings = {
        "jpeg": 0.3,
        "blur": 0.1,
        "noise": 0.1,
        "bit_depth": 0.2,
        "resize": 0.1,
        "min_quality": 5,
        "max_quality": 60,
    }
    mild = _draw(256, hardness=0.0, **settings)[0].strengths
    assert set(mild["jpeg"][0].tolist()) == {60}
    assert set(mild["bit_depth"].tolist()) == {7}
    assert set(mild["resize"].tolist()) == {resize.SIZES - 1}
    np.testing.assert_allclose(mild["blur"], 0.1, rtol=1e-6)
    assert not mild["noise"].any()
    half = _draw(256, hardness=0.5, **settings)[0].strengths
    assert 25 <= int(half["jpeg"][0].min()) <= 40
    config = ViewsConfig(warmup=0.4)
    for progress, expected in ((0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (1.0, 1.0)):
        assert float(views.hardness(config, progress)) == pytest.approx(expected)
    assert float(views.hardness(ViewsConfig(), 0.0)) == 1


# Gradients ------------------------------------------------------------------------

SMOOTH = ("grayscale", "blur", "noise", "resize", "crop", "cutout", "cutmix", "mixup")


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_smooth_views_are_finite_differences(name):
    draws, config = _draw(**{name: 1.0})
    _check_finite_difference(draws, config, slice(None))


def _check_finite_difference(draws, config, chosen):
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        images = jnp.asarray(_images(), jnp.float64)
        direction, weights = rng.normal(size=(2, *images.shape))

        def value(x):
            seen = views.see(x, draws, config)
            return jnp.sum(weights[chosen] * jnp.sin(seen)[chosen])

        step = 1e-6
        numeric = value(images + step * direction) - value(images - step * direction)
        exact = jnp.sum(direction * jax.grad(value)(images))
        # Some weights are float32, which sums of them show.
        np.testing.assert_allclose(numeric / (2 * step), exact, rtol=1e-4, atol=1e-4)


def test_rand_augment_has_the_gradient_of_its_smooth_operations():
    flat = [NAMES.index(name) for name in ("equalize", "posterize")]
    draws, config = _draw(rand_augment=1.0, num_ops=1)
    choice = np.asarray(draws.strengths["rand_augment"][0][0])
    smooth = np.flatnonzero(~np.isin(choice, flat))
    assert len(smooth) > 3
    _check_finite_difference(draws, config, smooth)
    for number in flat:
        amounts = jnp.full(8, 6.0)
        fixed = draws._replace(
            strengths={"rand_augment": ((jnp.full(8, number), amounts),)}
        )
        gradient = jax.grad(lambda x, d=fixed: views.see(x, d, config).sum())(_images())
        np.testing.assert_allclose(gradient, 1, atol=1e-6)


@pytest.mark.parametrize("gradient", ["identity", "surviving", "soft"])
def test_fewer_gray_levels_have_the_stated_gradient(gradient):
    draws, config = _draw(bit_depth=1.0, gradient=gradient)
    images = _images() - 0.2
    actual = jax.grad(lambda x: views.see(x, draws, config).sum())(images)
    spacing = 2.0 ** (8 - np.asarray(draws.strengths["bit_depth"], float))
    steps = 255 * np.asarray(images, float) / spacing[:, None, None, None]
    coarse = color.posterize(images, draws.strengths["bit_depth"])
    expected = {
        "identity": np.ones_like(steps),
        "surviving": np.asarray(coarse) > 0,
        # Largest at whole steps, where a value is about to fall into another.
        "soft": 3 * (steps - np.floor(steps) - 0.5) ** 2,
    }[gradient]
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_plain_and_compressed_images_pass_their_gradients_side_by_side():
    draws, config = _draw(64, jpeg=0.5, cutout=0.3)
    gradient = jax.grad(lambda x: views.see(x, draws, config).sum())(_images(64))
    seen = np.asarray(views.see(_images(64), draws, config))
    hidden = (seen == 0).all(-1)
    np.testing.assert_array_equal(np.asarray(gradient)[hidden], 0)
    np.testing.assert_allclose(np.asarray(gradient)[~hidden], 1, atol=1e-6)


# Settings -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"jpeg": 0.7, "grayscale": 0.4}, "sum to 1.1; allowed: at most 1"),
        ({"blur": -0.1}, "blur is -0.1"),
        ({"min_quality": 50, "max_quality": 40}, "1 <= min_quality <= max_quality"),
        ({"max_quality": 101}, "max_quality <= 100"),
        ({"min_bits": 8}, "min_bits is 8; allowed: 1 to 7"),
        ({"max_blur_sigma": 0.05}, "max_blur_sigma is 0.05; allowed: at least 0.1"),
        ({"min_size": 0.0}, "min_size is 0.0"),
        ({"magnitude": 31.0}, r"magnitude is 31.0; allowed: numbers in \[0, 30\]"),
        (
            {"gradient": "hard"},
            "gradient is 'hard'; allowed: identity, surviving, soft",
        ),
        ({"redraw": "epoch"}, "redraw is 'epoch'; .*llowed: visit, step"),
        ({"warmup": 1.5}, "warmup is 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ViewsConfig(**settings)


def test_views_are_found_by_name_mapping_or_as_they_are():
    robust = views.preset("robust")
    assert views.preset(dataclasses.asdict(robust)) == robust
    assert views.preset(robust) is robust
    assert views.preset("none").plain == 1
    with pytest.raises(ValueError, match="unknown views 'robst'; did you mean"):
        views.preset("robst")
    with pytest.raises(ValueError, match="unknown setting of views 'jpg'"):
        views.preset({"jpg": 0.5})


def test_images_that_cannot_be_seen_so_are_refused():
    with pytest.raises(ValueError, match="views jpeg: images have 1 or 3 channels"):
        views.check(ViewsConfig(jpeg=0.5), (16, 16, 2))
    with pytest.raises(ValueError, match="views blur: images have at least 3 pixels"):
        views.check(ViewsConfig(blur=0.5), (2, 16, 3))
    with pytest.raises(ValueError, match="views rand_augment: images have at least 3"):
        views.check(ViewsConfig(rand_augment=0.5), (16, 2, 3))
    for config in views.PRESETS.values():
        views.check(config, (32, 32, 3))
