"""Pictures in class folders, or an archive of them, as one file that loads at once.

`gpu_run.py` runs it: `python pack.py SOURCE OUTPUT.npz` decodes SOURCE/train and
SOURCE/test once for all steps that follow.
"""

import pathlib
import sys
import tarfile
import tempfile

import numpy as np

from miue_jax import _command_line
from miue_jax.data import DataSource, atomic

PROG = "pack.py"


def main() -> None:
    """Packs what the command line names."""
    source, output = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        if not pathlib.Path(source).is_dir():
            try:
                with tarfile.open(source) as archive:
                    archive.extractall(folder, filter="data")
            except tarfile.TarError as error:
                raise ValueError(f"{source}: is no archive ({error})") from error
            source = folder
        arrays = {}
        for split in ("train", "test"):
            data = DataSource(source, split=split).load()
            arrays |= {f"x_{split}": data.images, f"y_{split}": data.labels}
        with atomic.write_file(output) as file:
            np.savez(file, **arrays)


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
