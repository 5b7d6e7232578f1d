#!/usr/bin/env bash
# jax 0.10.2 never replaces an entry of its compilation cache that was cut short.
#
# Expected: where a write to the persistent compilation cache fails (a full disk, a limit
# on file sizes), nothing is left of the entry, or it is written again once there is
# space: it was found to be unreadable, and the program was compiled anyway.
# Seen: the file that was cut short stays. Every later process warns that it cannot read
# the entry, compiles the program again, and leaves the file as it is.
#
# Exits 0 while this is so, and 1 when the entry is repaired or removed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2
cat >"$folder/compile.py" <<'PY'
import jax
import jax.numpy as jnp

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


@jax.jit
def program(x):
    for _ in range(20):
        x = jnp.sin(x @ x) + jnp.cos(x)
    return x


program(jnp.ones((8, 8))).block_until_ready()
PY
export JAX_PLATFORMS=cpu JAX_COMPILATION_CACHE_DIR="$folder/cache"
size() { find "$folder/cache" -name 'jit_program-*-cache' -printf '%s\n'; }
run() { "$folder/env/bin/python" "$folder/compile.py" 2>&1 | grep -o "Error .* cache entry for 'jit_program'" || true; }
echo "with files of at most 1 KiB: $( (ulimit -f 1 && run) )"
cut=$(size)
echo "size of the entry then: $cut bytes"
first=$(run)
second=$(run)
echo "without the limit, first process: $first"
echo "without the limit, second process: $second"
echo "size of the entry now: $(size) bytes"
[ -n "$first" ] && [ -n "$second" ] && [ "$(size)" = "$cut" ]
