"""Folders of pictures that are protected in no time, and checks of all of them."""

import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np
import pytest
from PIL import Image

from miue_jax import pictures, protector
from miue_jax.protector import FitConfig
from miue_jax.workflows.folder import resumable_fit, run

# What a killed writer may leave, and the next run removes.
TEMPORARY = re.compile(r"\..+\.tmp|.*\.orbax-checkpoint-tmp.*")


def save_protector(path: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """Writes a small protector with random weights: its change is large, not useful."""
    settings = protector.Settings(num_codes=4, width=8, size=32)
    make = jax.jit(lambda key: protector.untrained(key, settings))
    protector.save(path, make(jax.random.key(seed)))
    return path


def photo(path: pathlib.Path, seed: int = 0, size: tuple[int, int] = (72, 48)) -> None:
    """Writes smooth shapes with noise, in the format of the name."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]] / 20.0
    waves = [np.sin(x * (1 + k) + seed) * np.cos(y * (k + 1)) for k in range(3)]
    noise = random.normal(0, 4, (size[1], size[0], 3))
    pixels = np.clip(np.stack(waves, -1) * 90 + 128 + noise, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """What is in a folder, by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def times(folder: pathlib.Path) -> dict[str, int]:
    """When files were last written, by name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {x.relative_to(folder).as_posix(): x.stat().st_mtime_ns for x in found}


def remains(folder: pathlib.Path) -> list[str]:
    """Temporary files that were left."""
    names = (path.name for path in folder.rglob("*"))
    return [name for name in names if TEMPORARY.fullmatch(name)]


def check_budget(
    source: pathlib.Path,
    output: pathlib.Path,
    targets: Mapping[str, str],
    strength: int,
) -> int:
    """Decodes files again: within the budget, and nothing that is hidden changes."""
    largest = 0
    for name, target in targets.items():
        before = pictures.read(source / name)
        after = pictures.read(output / target)
        change = np.abs(after.pixels.astype(int) - before.pixels)
        hidden = np.zeros(change.shape[:2], bool)
        if before.alpha is not None:
            hidden = before.alpha == 0
            kept = 255 if after.alpha is None else after.alpha
            assert np.array_equal(np.broadcast_to(kept, hidden.shape), before.alpha)
        assert change[~hidden].max(initial=0) <= strength, name
        if after.lossless:
            assert not change[hidden].any(), name
        largest = max(largest, int(change.max(initial=0)))
    return largest


def fit_quickly(setattr: Callable[[object, str, object], None], steps: int = 2) -> None:
    """Makes every fit a few steps of a small classifier."""
    small = functools.partial(
        FitConfig, batch_size=2, model="linear", model_width=None, view_size=16
    )
    setattr(run, "FitConfig", small)
    setattr(run, "_STEPS", dict.fromkeys(run._STEPS, steps))
    setattr(run, "_SIZES", dict.fromkeys(run._SIZES, 32))
    setattr(resumable_fit, "_EVERY", 5)


def not_root() -> None:
    """Skips a test of permissions where there are none."""
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
