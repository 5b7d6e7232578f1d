"""Fits a protector in a folder of its own, which a later run resumes."""

import contextlib
import hashlib
import pathlib
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from miue_jax import _settings, protector
from miue_jax.protector import Clusters, FitConfig, Protector, Settings
from miue_jax.train import checkpoints, loop, run_directory

_EVERY = 50


def run(
    config: FitConfig,
    images: np.ndarray,
    codes: np.ndarray,
    settings: Settings,
    clusters: Clusters,
    folder: pathlib.Path,
    *,
    start: Protector | None = None,
    progress: bool = False,
) -> Protector:
    """Fits a protector, or finishes a fit that was stopped.

    Args:
      config: the settings of the fit.
      images: (N, s, s, 3) uint8.
      codes: (N,) int32, -1 for a new code at random in each step.
      settings: of the protector.
      clusters: of the protector.
      folder: for checkpoints, removed at the end; those of another fit are removed.
      start: the protector to begin with; None for random weights.
      progress: whether to show a progress bar.

    Returns:
      The protector.

    Raises:
      Stopped: after a signal, once the state is saved.

    Example:
      >>> import pathlib, tempfile
      >>> import numpy as np
      >>> from miue_jax import protector
      >>> from miue_jax.workflows.folder import resumable_fit
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     made = resumable_fit.run(
      ...         protector.FitConfig(
      ...             steps=1, batch_size=2, model="linear", model_width=None
      ...         ),
      ...         np.zeros((2, 32, 32, 3), np.uint8),
      ...         np.arange(2, dtype=np.int32),
      ...         protector.Settings(num_codes=2, width=8, size=32),
      ...         protector.clusters.none(),
      ...         pathlib.Path(folder, "fit"),
      ...     )
      >>> made.settings.num_codes
      2
    """
    identity: dict[str, Any] = {
        "fit": _settings.to_plain(config),
        "settings": _settings.to_plain(settings),
        "images": hashlib.sha256(images.tobytes()).hexdigest(),
        "codes": hashlib.sha256(codes.tobytes()).hexdigest(),
        "start": None if start is None else protector.digest(start),
    }
    made = protector.fit(config, settings, len(images[0]))
    key = jax.random.key(config.seed)
    state = jax.jit(made.init)(key)
    if start is not None:
        state = state._replace(network=jax.tree.map(jnp.asarray, start.params))
    step = jax.jit(made.step, donate_argnums=1)
    squares, kinds = jnp.asarray(images), jnp.asarray(codes, jnp.int32)
    with contextlib.ExitStack() as stack:
        saved = stack.enter_context(checkpoints.Checkpoints(folder, config=identity))
        done = 0
        if saved.latest_step:
            try:
                state, _ = saved.restore(state)
                done = saved.latest_step
            except ValueError:
                # Of other pictures, or another version: begun again.
                shutil.rmtree(folder)
                saved = stack.enter_context(
                    checkpoints.Checkpoints(folder, config=identity)
                )
        received = stack.enter_context(loop.stop_signals())
        bar = stack.enter_context(
            loop.progress(config.steps, done, label="fitting", quiet=not progress)
        )
        for number in range(done + 1, config.steps + 1):
            state, _ = step(key, state, squares, kinds)
            bar.update()
            if received:
                saved.save(number, state)
                loop.stop_now(received.pop())
            if number % _EVERY == 0 and number < config.steps:
                saved.save(number, state)
    params = jax.tree.map(np.asarray, state.network)
    return Protector(params, clusters, settings)


def check(folder: pathlib.Path) -> None:
    """Checks that a folder for checkpoints is none of somebody else.

    Args:
      folder: of the fit; it may be missing.

    Raises:
      ValueError: if it holds anything but checkpoints.

    Example:
      >>> import pathlib, tempfile
      >>> from miue_jax.workflows.folder import resumable_fit
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     pathlib.Path(folder, "letter.txt").touch()
      ...     resumable_fit.check(pathlib.Path(folder))
      Traceback (most recent call last):
      ValueError: ...: exists and is not of a fit that was stopped
    """
    if not folder.exists():
        return
    if not folder.is_dir() or not all(
        path.is_dir() and re.match(r"\d+(\.orbax-checkpoint-tmp|$)", path.name)
        for path in folder.iterdir()
        if path.name != run_directory.LOCK
    ):
        raise ValueError(f"{folder}: exists and is not of a fit that was stopped")


def forget(folder: pathlib.Path) -> None:
    """Removes the checkpoints of a fit that is done.

    Args:
      folder: of the fit; it may be missing.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.folder import resumable_fit
      >>> resumable_fit.forget(pathlib.Path("none"))
    """
    shutil.rmtree(folder, ignore_errors=True)
