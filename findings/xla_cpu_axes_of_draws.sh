#!/usr/bin/env bash
# jax 0.10.2 on a CPU: a random draw of four axes takes several times as long to compile.
#
# Expected: `jax.random.normal` draws 36,864 numbers of which the shape says no more than
# how they are cut: `normal(key, (3, 3, 64, 64))` is `normal(key, (36864,))` reshaped, to
# the last bit. Both are programs of the same size, compiled in about the same time.
# Seen: the values are equal. The program of four axes is more than twice as large, and
# XLA's CPU backend needs four to five times the processor time to compile it: about a
# second for a draw, with AVX-512. Initial kernels of convolutions are such draws, one for
# each layer.
#
# Exits 0 while this is so, and 1 when the programs are of similar size or time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2
JAX_PLATFORMS=cpu JAX_ENABLE_COMPILATION_CACHE=false "$folder/env/bin/python" - <<'PY'
import math
import statistics
import sys
import time

import jax
import numpy as np
from jax.experimental import serialize_executable

key = jax.random.key(0)
shapes = (36_864,), (3, 3, 64, 64)
seconds = {shape: [] for shape in shapes}
sizes, draws = {}, {}
for _ in range(5):
    for shape in shapes:
        lowered = jax.jit(lambda key, s=shape: jax.random.normal(key, s)).lower(key)
        began = time.process_time()
        compiled = lowered.compile()
        seconds[shape].append(time.process_time() - began)
        sizes[shape] = len(serialize_executable.serialize(compiled)[0])
        draws[shape] = np.asarray(compiled(key)).ravel()
for shape in shapes:
    print(
        f"{math.prod(shape)} numbers as {shape}: a program of {sizes[shape]:,} bytes, "
        f"compiled in {statistics.median(seconds[shape]):.2f} s of the processor"
    )
flat, four = shapes
same = np.array_equal(draws[flat], draws[four])
slower = statistics.median(seconds[four]) / statistics.median(seconds[flat])
print(f"equal values: {same}; {slower:.1f} times as long to compile")
sys.exit(not (same and slower > 2 and sizes[four] > 1.5 * sizes[flat]))
PY
