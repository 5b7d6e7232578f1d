"""Perturbations of 8-bit images: whole gray levels, and the audit of a budget."""

import functools
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miue_jax import _rows, budget
from miue_jax.budget import PerturbationAudit, audit, quantize

SHAPE = (3, 4, 4, 3)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=25, deadline=None, derandomize=True)


@given(seed=seeds, scale=st.floats(0, 3), radius=st.floats(1, 255))
@few
def test_quantized_images_keep_the_budget(seed, scale, radius):
    rng = np.random.default_rng(seed)
    images = rng.choice(np.array([0, 1, 5, 128, 250, 255], np.uint8), SHAPE)
    delta = (scale * rng.standard_normal(SHAPE)).astype(np.float32)
    result = quantize(images, delta, radius=radius)
    change = result.astype(int) - images
    assert result.dtype == np.uint8
    assert np.abs(change).max() <= radius
    exact = images + 255.0 * delta
    inside = (np.abs(255 * delta) <= np.floor(radius)) & (exact >= 0) & (exact <= 255)
    assert np.all(np.abs(result - exact)[inside] <= 0.5 + 1e-4)
    assert np.all(np.sign(change) * np.sign(delta) >= 0)


@given(seed=seeds, radius=st.integers(0, 40), block=st.integers(1, 200))
@few
def test_audit_equals_plain_computation(seed, radius, block):
    rng = np.random.default_rng(seed)
    clean = rng.integers(0, 256, (5, 4, 3, 3)).astype(np.uint8)
    change = rng.integers(-radius, radius + 1, clean.shape) * rng.integers(
        0, 2, (5, 4, 3, 1)
    )
    protected = np.clip(clean + change, 0, 255).astype(np.uint8)
    change = np.abs(protected.astype(float) - clean)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_rows, "_BLOCK", block)
        result = audit(clean, protected)
    want = PerturbationAudit(
        max_change=change.max(),
        mean_change=change.mean(),
        max_l2=np.sqrt(np.square(change / 255).sum(axis=(1, 2, 3))).max(),
        max_l0=(change > 0).any(axis=3).sum(axis=(1, 2)).max(),
        saturated=np.mean((protected == 0) | (protected == 255)),
        at_max=np.mean(change == change.max()) if change.max() else 0,
    )
    np.testing.assert_allclose(result, want, rtol=1e-12)


def test_audit_of_a_known_change():
    clean = np.full((2, 2, 2, 3), 100, np.uint8)
    protected = clean.copy()
    protected[0, 0, 0] = [103, 100, 96]
    protected[1, 0, 0, 0] = 0
    assert audit(clean, protected) == PerturbationAudit(
        max_change=100,
        mean_change=107 / 24,
        max_l2=100 / 255,
        max_l0=1,
        saturated=1 / 24,
        at_max=1 / 24,
    )
    assert audit(clean, clean) == PerturbationAudit(0, 0.0, 0.0, 0, 0.0, 0.0)


def test_quantize_rounds_to_the_nearest_level():
    images = np.full((1, 1, 6, 1), 100, np.uint8)
    levels = np.array([-7.6, -0.6, -0.4, 0.4, 0.6, 8.4])
    delta = (levels / 255).astype(np.float32).reshape(images.shape)
    result = quantize(images, delta, radius=8)
    assert result.ravel().tolist() == [92, 99, 100, 100, 101, 108]
    cut = quantize(images, delta, radius=2.9)
    assert cut.ravel().tolist() == [98, 99, 100, 100, 101, 102]


def test_quantize_goes_down_or_drops_what_is_negative_where_asked():
    images = np.full((1, 1, 7, 1), 100, np.uint8)
    levels = np.array([-8.0, -7.6, -0.4, 0.0, 0.9, 1.0, 8.0])
    delta = (levels / 255).astype(np.float32).reshape(images.shape)
    down = quantize(images, delta, radius=8, export="truncate")
    assert down.ravel().tolist() == [92, 92, 99, 100, 100, 101, 108]
    kept = quantize(images, delta, radius=8, export="drop_negative")
    assert kept.ravel().tolist() == [100, 100, 100, 100, 100, 101, 108]
    # The budget comes after it: -7.6 goes down to -8, and no further than 7.
    cut = quantize(images, delta, radius=7, export="truncate")
    assert cut.ravel().tolist() == [93, 93, 99, 100, 100, 101, 107]
    with pytest.raises(ValueError, match=r"export 'truncated'.*truncate"):
        quantize(images, delta, radius=8, export="truncated")


@pytest.mark.parametrize("export", ["round", "truncate"])
def test_a_whole_number_of_levels_stays_what_it_is(export):
    levels = np.arange(-255, 256)
    images = np.where(levels < 0, 255, 0).astype(np.uint8).reshape(1, 1, -1, 1)
    delta = (levels / 255).astype(np.float32).reshape(images.shape)
    result = quantize(images, delta, radius=255, export=export)
    np.testing.assert_array_equal(
        result.astype(int) - images, levels[None, None, :, None]
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, "bfloat16"])
@pytest.mark.parametrize("export", budget.EXPORTS)
def test_quantize_cuts_off_what_is_far_too_large(dtype, export):
    dtype = np.dtype(jnp.dtype(dtype))
    largest = float(jnp.finfo(dtype).max)
    values = np.array([1e39, -1e39, 3e38, -6e4, 1.0, -1.0, 0.0])
    delta = np.clip(values, -largest, largest).astype(dtype).reshape(1, 1, -1, 1)
    images = np.full(delta.shape, 100, np.uint8)
    down = 100 if export == "drop_negative" else 92
    result = quantize(images, delta, radius=8, export=export)
    assert result.ravel().tolist() == [108, down, 108, down, 108, down, 100]
    result = quantize(images, delta, radius=255, export=export)
    down = 100 if export == "drop_negative" else 0
    assert result.ravel().tolist() == [255, down, 255, down, 255, down, 100]


@pytest.mark.parametrize("value", [1e39, 1e200, np.nan])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_check_within_measures_what_float32_cannot_hold(norm, value):
    clean = np.zeros((2, 4, 4, 3), np.uint8)
    delta = np.zeros(clean.shape)
    delta[1, 0, 0, 0] = value
    limits = budget.Budget(norm, 8.0)
    with pytest.raises(ValueError, match="perturbation of image 1 reaches"):
        budget.check_within(clean, delta, clean, limits)


def test_check_within_measures_large_images_of_narrow_types():
    clean = np.zeros((1, 256, 256, 3), np.uint8)
    delta = np.full(clean.shape, 8 / 255, np.float16)
    levels = quantize(clean, delta, radius=8)
    exact = float(np.linalg.norm(delta.astype(np.float64).ravel()))
    budget.check_within(clean, delta, levels, budget.Budget("l2", exact))
    with pytest.raises(ValueError, match=f"reaches {exact:g} in L2"):
        budget.check_within(clean, delta, levels, budget.Budget("l2", 0.9 * exact))


@pytest.mark.parametrize("function", [audit, quantize])
def test_memory_is_bounded_by_blocks(function, monkeypatch):
    monkeypatch.setattr(_rows, "_BLOCK", 1 << 14)
    images = np.zeros((500, 32, 32, 3), np.uint8)
    other = images + 3
    call = functools.partial(audit, images, other)
    if function is quantize:
        call = functools.partial(quantize, images, other.astype(np.float32), radius=8)
    tracemalloc.start()
    try:
        call()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # quantize returns as much as it was given.
    assert peak < images.nbytes * (0.6 if function is audit else 1.6)


# Bad input --------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0, -8, 0.5, 8 / 255, float("nan"), 256])
def test_quantize_refuses_a_radius_without_whole_levels(radius):
    images, delta = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE)
    with pytest.raises(ValueError, match="radius is in gray levels"):
        quantize(images, delta, radius=radius)


def test_quantize_refuses_bad_arrays():
    images, delta = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE)
    with pytest.raises(ValueError, match="images must be uint8, got float64"):
        quantize(delta, delta, radius=8)
    with pytest.raises(ValueError, match="one shape"):
        quantize(images, delta[:1], radius=8)
    with pytest.raises(ValueError, match="delta must be floating"):
        quantize(images, images, radius=8)
    for bad in (np.nan, np.inf):
        delta[1, 0, 0, 0] = bad
        with pytest.raises(ValueError, match=r"NaN or infinity in images 0 to 2"):
            quantize(images, delta, radius=8)


def test_audit_refuses_bad_arrays():
    images = np.zeros(SHAPE, np.uint8)
    with pytest.raises(ValueError, match=r"clean images must be uint8.*float32"):
        audit(images.astype(np.float32), images)
    with pytest.raises(ValueError, match=r"protected images must be.*\(4, 4, 3\)"):
        audit(images, images[0])
    with pytest.raises(ValueError, match=r"\(3, 4, 4, 3\) and \(2, 4, 4, 3\)"):
        audit(images, images[:2])
    with pytest.raises(ValueError, match="not be empty"):
        audit(images[:0], images[:0])
