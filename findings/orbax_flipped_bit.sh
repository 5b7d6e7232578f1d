#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 restores an array whose file lost a bit, without an error.
#
# Expected: an error, or at least a warning, when the bytes of an array on disk are not
# those that were written. The file is compressed with zstd, whose format has an optional
# checksum of the content.
# Seen: of 40 copies of a checkpoint, each with one flipped bit in the file of the array,
# many are restored with other numbers and neither an error nor a warning.
#
# Exits 0 while this is so, and 1 when no flipped bit passes any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 orbax-checkpoint==0.12.8
cat >"$folder/flip.py" <<'PY'
import pathlib
import random
import shutil
import sys
import warnings

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

root = pathlib.Path(sys.argv[1])
noise = jax.random.normal(jax.random.key(0), (64, 64))
ocp.save(str(root / "whole"), {"w": noise})
like = {"w": jax.ShapeDtypeStruct(noise.shape, noise.dtype, sharding=noise.sharding)}
counts = {"error": 0, "warning": 0, "right": 0, "other numbers": 0}
for seed in range(40):
    copy = root / str(seed)
    shutil.copytree(root / "whole", copy)
    files = [path for path in copy.rglob("*") if path.parent.name == "d"]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    draw = random.Random(seed)
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    largest.write_bytes(data)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = ocp.load(str(copy), like)["w"]
        except Exception:
            counts["error"] += 1
            continue
    same = np.array_equal(found, noise)
    name = "right" if same else "warning" if warned else "other numbers"
    counts[name] += 1
print(f"one flipped bit in the array's file, 40 times: {counts}")
sys.exit(counts["other numbers"] == 0)
PY
JAX_PLATFORMS=cpu "$folder/env/bin/python" "$folder/flip.py" "$folder/checkpoints"
