"""Powers of two and rounding toward zero, against all numbers of the narrow types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miue_jax._floats import is_narrow, power_of_two, toward_zero


def test_powers_of_two():
    values = np.array([0, 1, 1.99, 2, 0.75, 3e38, 1e-30, np.inf, np.nan], np.float32)
    want = [1, 1, 1, 2, 0.5, 2.0**126, 2.0**-100, 1, 1]
    np.testing.assert_array_equal(power_of_two(jnp.asarray(values)), np.float32(want))


def test_types_narrower_than_float32():
    assert [is_narrow(t) for t in ("bfloat16", "float16", "float32")] == [1, 1, 0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("xp", [np, jnp])
def test_rounding_toward_zero_finds_the_number_below(dtype, xp):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000) * 10.0 ** rng.uniform(-9, 6, 20_000)
    values = np.append(values, [0, 1, -65504, 65519, 2.0**-24, 3e38]).astype(np.float32)
    patterns = np.arange(0x7F80, dtype=np.uint16)  # all numbers >= 0 of either type
    known = patterns.view(jnp.dtype(dtype)).astype(np.float32)
    known = np.unique(known[np.isfinite(known)]).astype(np.float64)
    want = known[np.searchsorted(known, np.abs(values), side="right") - 1]
    function = toward_zero if xp is np else jax.jit(toward_zero, static_argnums=1)
    options = {"xp": np} if xp is np else {}
    found = function(xp.asarray(values), jnp.dtype(dtype), **options)
    assert found.dtype == dtype
    np.testing.assert_array_equal(
        np.asarray(found, np.float64), np.copysign(want, values)
    )
