#!/usr/bin/env bash
# jax 0.10.2 draws normal numbers in bfloat16 whose mean is not 0 (0.12.0.1 does, too).
#
# Expected: `jax.random.normal`, documented to sample the standard normal density on all
# real numbers, has in every float type the mean 0 and both tails, up to the rounding of
# that type. Of a million draws the mean is then within 0.005; some 5,900 are above 2.52
# and 1,900 below -2.9. Draws in float32, rounded to bfloat16 afterward, are so.
# Seen: in bfloat16 there are 128 numbers, as many as the uniform draw behind them has.
# Their mean is -0.012, twelve standard errors from 0, none is above 2.52 and none below
# -2.9. Initial weights inherit it: in a layer with parameters in bfloat16 and 1,024
# inputs, the weights of an output sum to -0.58 on average, where their standard
# deviation is 1.
#
# Exits 0 while this is so, and 1 when the mean is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PY'
import sys

import jax
import jax.numpy as jnp
import numpy as np

number = 1_000_000
key = jax.random.key(0)
draws = {
    "float32": jax.random.normal(key, (number,)),
    "float32, rounded to bfloat16": jax.random.normal(key, (number,)).astype("bfloat16"),
    "bfloat16": jax.random.normal(key, (number,), jnp.bfloat16),
}
means = {}
for name, values in draws.items():
    values = np.asarray(values).astype(np.float64)
    means[name] = values.mean() * number**0.5
    above, below = (values > 2.52).sum(), (values < -2.9).sum()
    print(
        f"{name}: mean {values.mean():.4f} ({means[name]:.1f} standard errors), "
        f"{above} above 2.52, {below} below -2.9, {len(np.unique(values))} numbers"
    )
for dtype in ("float32", "bfloat16"):
    make = jax.nn.initializers.lecun_normal()
    sums = np.asarray(make(key, (1024, 1024), dtype)).astype(np.float64).sum(0)
    print(f"layer in {dtype}: sums of 1024 weights {sums.mean():.3f} on average")
right = all(abs(means[name]) < 5 for name in draws if name != "bfloat16")
sys.exit(not (right and means["bfloat16"] < -8))
PY
