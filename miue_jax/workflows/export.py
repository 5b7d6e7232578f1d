"""Exports of a protected data set: PNG files, or its perturbation as an array."""

import os

from miue_jax.data import artifact, atomic, bucket, exchange

__all__ = ["export"]


def export(
    path: str | os.PathLike[str],
    *,
    png: str | os.PathLike[str] | None = None,
    npy: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a protected data set in formats that other programs read.

    Args:
      path: the protected data set (.npz). This and what is written may be in buckets.
      png: a folder to create: class/name.png, the name being that of the file in the
        source, or, if it has no files, the index in it.
      npy: a file to create: the float32 perturbation (N, C, H, W) in [0, 1] units, the
        layout of PyTorch.

    Raises:
      ValueError: if neither is given, or one cannot be written; nothing is written
        then.

    Example:
      >>> import pathlib, tempfile
      >>> import miue_jax as mj
      >>> from miue_jax.workflows.export import export
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     workdir, png = pathlib.Path(folder, "run"), pathlib.Path(folder, "png")
      ...     clean = mj.data.load("shapes", per_class=2)
      ...     made = mj.protect(clean, "random_noise", workdir=workdir)
      ...     export(workdir / "protected.npz", png=png)
      ...     len(list(png.glob("*/*.png")))
      20
    """
    if png is None and npy is None:
        raise ValueError("name what to write: png (a folder) or npy (a file), or both")
    made = artifact.load(path)
    # Both are checked before either is written.
    if png is not None:
        atomic.check_new_folder(png)
    if npy is not None:
        exchange.check_delta_file(npy)
        file = bucket.place(path)
        atomic.check_not_read(npy, (file, artifact.delta_path(file)))
        exchange.export_delta_nchw(npy, exchange.read_delta(path, made))
    if png is not None:
        exchange.export_png_folder(made, png)
