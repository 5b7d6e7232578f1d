#!/usr/bin/env bash
# augmax 0.4.1 turns images one way only, where it is to turn some of them.
#
# Expected: `Rotate(angle_range=(-30, 30), p=0.5)` turns an image with the documented
# probability, and then by an angle drawn from the documented range: of 2,000 images
# about 500 go one way and 500 the other, by 15 degrees on average, and 1,000 stay.
# Seen: with p=0.5 all that are turned go the same way; none goes the other. With p=0.25
# all of those are turned by 15 degrees or more. With p=1, the default, both ways are
# as frequent. Whether to turn and how far are drawn from the same random key, so that the
# smallest draws, which are the lowest angles, are those that are let through.
#
# Exits 0 while this is so, and 1 when a p below 1 turns images both ways.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 augmax==0.4.1
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PY'
import sys

import augmax
import jax
import jax.numpy as jnp
import numpy as np

# One bright pixel, ten to the right of the center: its place tells the angle.
image = jnp.zeros((25, 25, 1)).at[12, 22].set(1.0)
rows, columns = np.mgrid[-12:13, -12:13]
number = 2000
keys = jax.random.split(jax.random.key(0), number)
ways = {}
for p in (1.0, 0.5, 0.25):
    rotate = augmax.Rotate(angle_range=(-30, 30), p=p)
    turned = np.asarray(jax.jit(jax.vmap(lambda key: rotate(key, image)))(keys))[..., 0]
    y, x = ((turned * axis).sum((1, 2)) for axis in (rows, columns))
    angles = np.degrees(np.arctan2(-y, x))
    one, other = angles[angles > 0.01], angles[angles < -0.01]
    ways[p] = len(one), len(other)
    sizes = np.abs(np.concatenate([one, other]))
    print(
        f"p={p}: {len(one)} one way, {len(other)} the other, "
        f"{number - len(sizes)} not at all; angles of {sizes.min():.1f} to "
        f"{sizes.max():.1f} degrees, {sizes.mean():.1f} on average"
    )
fair = min(ways[1.0]) > 0.45 * number
sys.exit(not (fair and max(ways[0.5]) > 0.4 * number and min(ways[0.5]) == 0))
PY
