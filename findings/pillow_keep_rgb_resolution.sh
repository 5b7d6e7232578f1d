#!/usr/bin/env bash
# Pillow 13.0.0 saves a JPEG in RGB whose colors are others when it is opened again, if
# the file is to state a resolution, too.
#
# Expected: `keep_rgb=True` stores the RGB values without conversion, and `dpi` a
# resolution beside them; opened again, the picture has its colors, as with either option
# alone.
# Seen: with both, the file gets a JFIF header for the resolution and an Adobe marker for
# the colors. By the JFIF header decoders take the colors for YCbCr: a plain red of
# (200, 60, 50) comes back as a green, by Pillow as well.
#
# Exits 0 while this is so, and 1 when the colors are right with both options.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet pillow==13.0.0
"$folder/env/bin/python" - <<'PY'
import io
import sys

from PIL import Image

red = (200, 60, 50)
found = {}
for name, options in {
    "neither": {},
    "dpi": {"dpi": (72, 72)},
    "keep_rgb": {"keep_rgb": True},
    "both": {"keep_rgb": True, "dpi": (72, 72)},
}.items():
    file = io.BytesIO()
    Image.new("RGB", (64, 64), red).save(file, "JPEG", quality=95, **options)
    with Image.open(file) as image:
        got = image.getpixel((0, 0))
        found[name] = max(abs(a - b) for a, b in zip(got, red))
        markers = [key for key in ("jfif", "adobe") if key in image.info]
    print(f"{name}: {got}, off by {found[name]}, headers: {', '.join(markers)}")
right = all(found[name] <= 2 for name in ("neither", "dpi", "keep_rgb"))
sys.exit(not (right and found["both"] > 50))
PY
