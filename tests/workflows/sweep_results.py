"""What a sweep left in its directory, and who works there."""

import json
import pathlib

import numpy as np

from miue_jax.train import run_directory


def write_data(path: pathlib.Path) -> str:
    """Writes 40 images of two classes, of 8x8 random pixels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
    labels = np.arange(40) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(path)


def content(workdir: pathlib.Path, named: str | None = None) -> dict[str, object]:
    """The results of all cells; what else there is has times in it."""
    named = str(workdir) if named is None else named
    found: dict[str, object] = {
        path.relative_to(workdir).as_posix(): path.read_bytes()
        for path in workdir.glob("protected/*/protected*")
    }
    for path in workdir.glob("cells/*/results.json"):
        results = run_directory.read_json(path)
        # Of which only the directory's own name differs.
        name = results["train"]["name"]
        results["train"]["name"] = name.removeprefix(named)
        found[path.parent.name] = json.dumps(results)
    return found


def holder(folder: pathlib.Path) -> int | None:
    """The process that holds the lock of a run directory."""
    try:
        inode = (folder / ".lock").stat().st_ino
    except FileNotFoundError:
        return None
    for line in pathlib.Path("/proc/locks").read_text().splitlines():
        _, kind, _, mode, pid, place = line.split()[:6]
        if (kind, mode) == ("FLOCK", "WRITE") and place.endswith(f":{inode}"):
            return int(pid)
    return None
