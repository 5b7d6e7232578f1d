"""AR: the process against a loop over pixels, the search, and the perturbation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax import generators
from miue_jax.budget import Budget
from miue_jax.generators import DataSpec, autoregressive_process
from miue_jax.generators.autoregressive import (
    _FILTERS,
    _IMAGES,
    PRESETS,
    AutoregressiveConfig,
    autoregressive,
)
from miue_jax.train import loop, parallel, sampling
from miue_jax.train import metrics as means

SHAPE = (10, 12, 2)
BURN_IN = 3
FOUND = 8  # classes of the searches


def _naive(filters, start):
    """The recursion in raster order, float64: filters (3, 3, C), start (H, W, C)."""
    field = np.array(start, float)
    for i in range(2, field.shape[0]):
        for j in range(2, field.shape[1]):
            window = field[i - 2 : i + 1, j - 2 : j + 1].copy()
            window[2, 2] = 0
            field[i, j] = (filters * window).sum((0, 1))
    return field


def _draw_filters(rng, *shape):
    weights = rng.normal(size=(8, *shape))
    weights /= weights.sum(0)
    return np.concatenate([weights, np.zeros((1, *shape))]).reshape(3, 3, *shape)


def _boundary(field):
    channels = field.shape[2]
    return np.concatenate(
        [field[:2].reshape(-1, channels), field[2:, :2].reshape(-1, channels)]
    )


def _response(signal, filters):
    """Of a signal (H, W, C) to filters (3, 3, C), in the plainest form."""
    matching = np.array(filters, float)
    matching[2, 2] = -1
    height, width = signal.shape[0] - 2, signal.shape[1] - 2
    values = [
        (signal[i : i + 3, j : j + 3] * matching).sum()
        for i in range(height)
        for j in range(width)
    ]
    return np.maximum(values, 0).sum(), np.abs(values).max()


@pytest.mark.parametrize(("height", "width"), [(9, 12), (12, 9), (5, 5)])
def test_the_process_is_the_recursion_in_raster_order(height, width):
    rng = np.random.default_rng(0)
    filters = _draw_filters(rng, 2).clip(-0.6, 0.6)
    start = rng.normal(size=(height, width, 2))
    want = _naive(filters, start)[2:, 2:]
    boundary = _boundary(start).astype(np.float32)
    assert len(boundary) == autoregressive_process.boundary_size(height, width)
    single = jnp.asarray(filters, jnp.float32)
    field = autoregressive_process.run(single, jnp.asarray(boundary), width)
    scale = np.abs(want).max()
    np.testing.assert_allclose(field, want, atol=1e-5 * scale)
    whole = autoregressive_process.linear_map(single, height, width)
    product = np.einsum("hwmc,mc->hwc", np.asarray(whole, float), boundary)
    np.testing.assert_allclose(product, want, atol=1e-5 * scale)


@functools.cache
def _compiled(trials):
    search = functools.partial(
        autoregressive_process.search,
        num_classes=FOUND,
        image_shape=SHAPE,
        burn_in=BURN_IN,
        trials=trials,
    )
    return jax.jit(search)


@functools.cache
def _search(*, trials=3, max_norm=15.0, min_response=1.5, max_draws=20_000):
    result = _compiled(trials)(
        jax.random.key(0),
        max_norm=max_norm,
        min_response=min_response,
        max_draws=max_draws,
    )
    return np.asarray(result.filters, float), int(result.found)


def _signals(filters, number, seed=0):
    """Fresh signals of filters (3, 3, C) and their norms."""
    rng = np.random.default_rng(seed)
    shape = (SHAPE[0] + BURN_IN, SHAPE[1] + BURN_IN, SHAPE[2])
    starts = rng.normal(size=(number, *shape))
    signals = [_naive(filters, start)[BURN_IN:, BURN_IN:] for start in starts]
    return signals, np.array([np.linalg.norm(signal) for signal in signals])


@functools.cache
def _smallest_responses(**settings):
    """Of every class but the first, to the classes before it, on fresh signals."""
    filters, _ = _search(**settings)
    smallest = []
    for later in range(1, FOUND):
        signals, norms = _signals(filters[later], 8)
        unit = [signal / norm for signal, norm in zip(signals, norms, strict=True)]
        assert max(_response(x, filters[later])[1] for x in unit) < 1e-6
        means = [
            np.mean([_response(x, filters[earlier])[0] for x in unit])
            for earlier in range(later)
        ]
        smallest.append(min(means))
    return np.array(smallest)


def test_the_filters_found_do_not_grow_and_tell_the_classes_apart():
    filters, found = _search()
    assert found == FOUND
    assert filters.shape == (FOUND, 3, 3, SHAPE[2])
    np.testing.assert_allclose(filters.sum((1, 2)), 1, atol=1e-5)
    assert (filters[:, 2, 2] == 0).all()
    norms = np.array([_signals(b, 12)[1] for b in filters])
    # Three draws were below 15; most others are then, too.
    assert np.mean(norms <= 15) > 0.8
    assert norms.max() < 40
    # One draw had a response of 1.5; the mean of others is then not far below.
    assert _smallest_responses().min() > 1.0
    assert _smallest_responses(min_response=0.0).min() < 0.5, "any filters would do"


def test_candidates_at_random_grow():
    rng = np.random.default_rng(0)
    norms = [_signals(_draw_filters(rng, SHAPE[2]), 1)[1][0] for _ in range(60)]
    assert np.mean(np.array(norms) < 40) < 0.3


def test_more_trials_let_fewer_processes_pass():
    # With one trial a process that grows once in a while is often taken.
    kept = []
    for trials in (1, 3):
        filters, found = _search(trials=trials, max_norm=6.0, min_response=0.0)
        assert found == FOUND
        norms = np.concatenate([_signals(b, 12)[1] for b in filters])
        kept.append(np.mean(norms <= 6))
    assert kept[1] > kept[0] + 0.05


def test_at_the_limit_the_best_candidates_stay_and_are_not_counted():
    limit = {"min_response": 1e9, "max_draws": 2000}
    filters, found = _search(**limit)
    assert found == 1, "the first class has nothing to differ from"
    assert max(_signals(b, 12)[1].max() for b in filters) < 40
    any_that_stay_small = _smallest_responses(min_response=0.0).mean()
    assert _smallest_responses(**limit).mean() > 1.5 * any_that_stay_small


def test_without_any_process_that_stays_small_the_mean_of_the_neighbors_is_used():
    filters, found = _search(max_norm=1e-6, max_draws=30)
    assert found == 0
    want = np.full((3, 3), 1 / 8)
    want[2, 2] = 0
    np.testing.assert_allclose(filters, np.broadcast_to(want[..., None], filters.shape))


SMALL = AutoregressiveConfig(
    radius=0.5, burn_in=3, max_norm=15.0, min_response=1.0, max_draws=3000
)
CLASSES = 3


@functools.cache
def _run(config, *, num_devices=1, seed=0, extreme=False):
    labels = (np.arange(20) % CLASSES).astype(np.int32)
    images = np.full((20, *SHAPE), 128, np.uint8)
    if extreme:
        images[:, ::2] = 255
        images[:, 1::2] = 0
    mesh = parallel.data_mesh(jax.devices()[:num_devices])
    spec = DataSpec(
        num_examples=20,
        num_classes=CLASSES,
        image_shape=SHAPE,
        num_shards=8,
        axis_name=parallel.AXIS,
    )
    generator = autoregressive(config, spec)
    data = sampling.deal(images, labels, 8)
    data = parallel.place(data, mesh, parallel.DATA_SPEC)
    key = jax.random.key(seed)
    state = loop.start(generator.init, mesh)(key, data)
    advance = loop.advance(generator.step, mesh)
    state, metrics = advance(key, state, data, generator.num_steps)
    delta = np.asarray(parallel.to_host(generator.perturbation(state)))
    delta = generators.per_example(generator, delta, labels, np.ones(20, bool))
    return images, labels, delta, means.values(metrics), generator


def test_images_of_a_class_follow_one_recursion_and_no_other():
    _, labels, delta, metrics, generator = _run(SMALL)
    assert metrics == {"filters_found": CLASSES}
    assert generator.budget == Budget("l2", 0.5)
    norms = np.linalg.norm(delta.reshape(20, -1), axis=1)
    np.testing.assert_allclose(norms, 0.5, rtol=1e-4)
    close = np.abs(delta[:, None] - delta).max((2, 3, 4)) < 1e-4
    np.testing.assert_array_equal(close, np.eye(20, dtype=bool))
    # Eight unknown weights a channel, from all windows of all images of a class.
    for channel in range(SHAPE[2]):
        fits = []
        for label in range(CLASSES):
            mine = delta[labels == label][..., channel]
            windows = np.lib.stride_tricks.sliding_window_view(mine, (3, 3), (1, 2))
            windows = windows.reshape(-1, 9)
            weights, *_ = np.linalg.lstsq(windows[:, :8], windows[:, 8], rcond=None)
            wrong = np.abs(windows[:, :8] @ weights - windows[:, 8]).max()
            assert wrong < 1e-5, "the windows follow no recursion"
            assert weights.sum() == pytest.approx(1, abs=1e-2)
            fits.append(weights)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert np.abs(fits[a] - fits[b]).max() > 0.05


def test_the_perturbation_is_the_recursion_without_its_first_rows_and_columns():
    _, labels, delta, _, _ = _run(SMALL)
    key = jax.random.key(0)
    search = functools.partial(
        autoregressive_process.search,
        num_classes=CLASSES,
        image_shape=SHAPE,
        burn_in=SMALL.burn_in,
        trials=SMALL.trials,
        max_norm=SMALL.max_norm,
        min_response=SMALL.min_response,
        max_draws=SMALL.max_draws,
    )
    filters = jax.jit(search)(jax.random.fold_in(key, _FILTERS)).filters
    filters = np.asarray(filters, float)
    height, width = (side + SMALL.burn_in for side in SHAPE[:2])
    size = autoregressive_process.boundary_size(height, width)
    # Twenty images on eight shards: three rows each.
    image_key = jax.random.fold_in(key, _IMAGES)
    drawn = np.stack(
        [
            jax.random.normal(
                jax.random.fold_in(image_key, shard), (3, size, SHAPE[2]), jnp.float32
            )
            for shard in range(8)
        ]
    )
    for label, boundary, found in zip(
        labels, sampling.collect(drawn, 20), delta, strict=True
    ):
        start = np.zeros((height, width, SHAPE[2]))
        start[:2] = boundary[: 2 * width].reshape(2, width, -1)
        start[2:, :2] = boundary[2 * width :].reshape(height - 2, 2, -1)
        want = _naive(filters[label], start)[SMALL.burn_in :, SMALL.burn_in :]
        want *= SMALL.radius / np.linalg.norm(want)
        np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.slow
def test_eight_devices_give_the_numbers_of_one():
    one, eight = (_run(SMALL, num_devices=n)[2] for n in (1, 8))
    np.testing.assert_allclose(eight, one, atol=1e-5)
    other = _run(SMALL, seed=1)[2]
    assert np.abs(other - one).max() > 1e-2


@pytest.mark.slow
def test_the_largest_value_can_be_the_budget():
    config = AutoregressiveConfig(
        norm="linf", radius=8, burn_in=2, max_norm=15.0, min_response=0, max_draws=3000
    )
    images, _, delta, _, generator = _run(config, extreme=True)
    assert generator.budget == Budget("linf", 8)
    largest = np.abs(delta).max((1, 2, 3))
    assert largest.max() == pytest.approx(8 / 255, rel=1e-4)
    assert (largest < 8 / 255 + 1e-6).all()
    assert (largest > 1 / 255).all()
    shown = images / 255 + delta
    assert -1e-6 <= shown.min() <= shown.max() <= 1 + 1e-6


def test_presets_state_the_published_settings():
    ten, hundred, linf = PRESETS.values()
    assert (ten.norm, ten.radius, ten.min_response, ten.max_norm) == ("l2", 1, 10, 50)
    assert (ten.burn_in, ten.trials) == (4, 3)
    assert hundred.min_response == 3
    assert (linf.norm, linf.radius) == ("linf", 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l1"}, "norm is 'l1'; did you mean 'l2'"),
        ({"norm": "linf", "radius": 0.03}, r"radius is 0\.03; allowed: whole gray"),
        ({"radius": 0}, "radius is 0"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"burn_in": 1}, "burn_in is 1; allowed: 2 pixels or more"),
        ({"burn_in": 4.0}, r"burn_in is 4\.0"),
        ({"trials": 0}, "trials is 0"),
        ({"max_norm": 0.0}, r"max_norm is 0\.0"),
        ({"min_response": -1}, "min_response is -1"),
        ({"max_draws": 0}, "max_draws is 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AutoregressiveConfig(**settings)


def test_images_smaller_than_the_filters_are_refused():
    spec = DataSpec(num_examples=2, num_classes=2, image_shape=(2, 8, 1))
    with pytest.raises(ValueError, match="at least 3x3 pixels, got 2x8"):
        autoregressive(PRESETS["published"], spec)
