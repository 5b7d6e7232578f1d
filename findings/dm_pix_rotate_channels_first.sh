#!/usr/bin/env bash
# dm-pix 0.4.5 rotates an image with channels first through its colors.
#
# Expected: `dm_pix.rotate`, documented for images of either HWC or CHW, turns the picture
# about its center in both layouts. By a right angle the result is that of `numpy.rot90`
# over rows and columns, and a plain color stays that color.
# Seen: it always turns the first two axes. With channels last the result is right. With
# channels first, the axes of channels and rows are turned: by half a turn, red and blue
# change places and the rows are reversed, but the columns stay. There is no error, no
# warning and, unlike in the library's flips, no argument that names the axis.
#
# Exits 0 while this is so, and 1 when channels first is refused or right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 dm-pix==0.4.5 scipy==1.17.1
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'PY'
import math
import sys

import dm_pix
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

last = np.random.default_rng(0).random((5, 5, 3), np.float32)
first = np.moveaxis(last, -1, 0)
off = {}
for name, image, axes in ("HWC", last, (0, 1)), ("CHW", first, (1, 2)):
    found = np.asarray(dm_pix.rotate(jnp.asarray(image), math.pi))
    off[name] = np.abs(found - np.rot90(image, 2, axes)).max()
    other = ndimage.rotate(image, 180, axes, order=1, mode="nearest")
    print(
        f"{name}, half a turn: off by {off[name]:.6f} from NumPy's, "
        f"by {np.abs(found - other).max():.6f} from SciPy's"
    )
red = np.broadcast_to(np.float32([0.8, 0.2, 0.1])[:, None, None], (3, 5, 5))
turned = np.asarray(dm_pix.rotate(jnp.asarray(red), math.pi))
print("a plain color of CHW:", red[:, 2, 2], "becomes", turned[:, 2, 2].round(6))
sys.exit(not (off["HWC"] < 1e-5 and off["CHW"] > 0.1 and turned[2, 2, 2] > 0.7))
PY
