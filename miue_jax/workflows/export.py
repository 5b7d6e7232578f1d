"""Writes a protected data set as PNG files, or its perturbation as an array.

    python experiments/export.py --artifact runs/shapes/protected.npz \
        --png runs/shapes/png --npy runs/shapes/delta_nchw.npy

The PNG names hold the index in the source data set; the array has PyTorch's layout.
"""

from collections.abc import Sequence

from absl import app, flags

from miue_jax import cli
from miue_jax.data import artifact, exchange

_ARTIFACT = flags.DEFINE_string("artifact", None, "The protected data set (.npz).")
_PNG = flags.DEFINE_string("png", None, "Folder to make: class/index.png.")
_NPY = flags.DEFINE_string("npy", None, "File to make: float32 (N, C, H, W) in [0, 1].")


def main(rest: Sequence[str]) -> None:
    """Exports what the flags ask for."""
    del rest
    if _ARTIFACT.value is None or (_PNG.value is None and _NPY.value is None):
        raise ValueError("give --artifact, and --png or --npy or both")
    made = artifact.load(_ARTIFACT.value)
    # Both are checked before either is written.
    if _PNG.value is not None:
        exchange.check_png_folder(made, _PNG.value)
    if _NPY.value is not None:
        exchange.check_delta_file(_NPY.value)
        delta = exchange.read_delta(_ARTIFACT.value, made)
        exchange.export_delta_nchw(_NPY.value, delta)
        print(_NPY.value)
    if _PNG.value is not None:
        exchange.export_png_folder(made, _PNG.value)
        print(_PNG.value)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=cli.parse)
    except (ValueError, OSError) as error:
        cli.fail(error)
