"""Ray: a cluster of this machine, or one that exists."""

import contextlib
import functools
import importlib.util
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from miue_jax.data.bucket import Place
from miue_jax.train import loop
from miue_jax.workflows.sweep.launch import Launcher, Resources, Submission
from miue_jax.workflows.sweep.launchers import work
from miue_jax.workflows.sweep.plan import Sweep
from miue_jax.workflows.sweep.tasks import Task

__all__ = ["launcher"]

# How often a cell is begun again whose worker was lost.
_RETRIES = 3

# Cells exchange nothing but names: their data are in files.
_OBJECT_STORE = 100 * 2**20

_SECONDS_TO_CONNECT = 5.0

# Within which a cluster must have let a process in.
_SECONDS_TO_ANSWER = 60.0

_TRY = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)"


def launcher(
    address: str | None = None, resources: Resources | None = None
) -> Launcher:
    """A Ray cluster, whose workers are new processes, never forks.

    A cell whose worker is lost is resumed on another one, three times at most. One that
    comes to nothing, such as one that diverges, is not.

    Args:
      address: "host:port" or "ray://host:port" of a cluster whose machines share the
        sweep's directory; "auto" for the one of this machine; None to start one here,
        which ends with the command.
      resources: what every cell asks for; None for a core.

    Returns:
      The launcher. It raises a ValueError if Ray is not installed, the cluster cannot
      be reached, or no machine of it has what a cell asks for.

    Example:
      >>> from miue_jax.workflows.sweep.launchers import ray
      >>> ray.launcher().detached
      False
    """
    return Launcher(functools.partial(_submit, address, resources or Resources()))


def _submit(
    address: str | None,
    resources: Resources,
    sweep: Sweep,
    workdir: Place,
    tasks: Sequence[Task],
) -> Submission:
    if importlib.util.find_spec("ray") is None:
        raise ValueError("Ray is not installed: pip install miue_jax[ray]")
    import ray

    with contextlib.ExitStack() as stack:
        if not ray.is_initialized():
            _connect(ray, address)
            stack.callback(ray.shutdown)
        _check_room(ray.nodes(), resources)
        remote = ray.remote(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            resources={"TPU": resources.tpus} if resources.tpus else {},
            max_retries=_RETRIES,
            retry_exceptions=False,
        )(_run)
        refs: dict[str, Any] = {}
        for task in tasks:
            # Ray begins a task when its arguments are there.
            waits = [refs[name] for name in task.after if name in refs]
            refs[task.name] = remote.remote(
                *(sweep.to_plain(), str(workdir.absolute()), resources, task.name),
                *waits,
            )
        close = stack.pop_all().close

    def ended() -> bool:
        _, left = ray.wait(list(refs.values()), num_returns=len(refs), timeout=0)
        return not left

    def cancel(_: int) -> None:
        for ref in refs.values():
            ray.cancel(ref)

    def check() -> None:
        lost = [
            f"{name}: {why}"
            for name, ref in refs.items()
            if (why := _problem(ray, ref)) is not None
        ]
        if lost:
            raise ValueError("; ".join(lost[:3]))

    return Submission(ended, cancel, check, close)


def _run(
    settings: dict[str, Any], workdir: str, resources: Resources, name: str, *_: object
) -> str | None:
    try:
        return work.run(settings, workdir, resources, name)
    except loop.Stopped as stopped:
        # Ray cancels by this signal. One that ends after another is begun again.
        if stopped.code != 128 + signal.SIGINT:
            raise
        return "cancelled"


def _connect(ray: Any, address: str | None) -> None:
    # What a user runs is nobody else's business.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Cells without GPUs would be told that there are none, also where they may use one.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {
            "num_cpus": len(os.sched_getaffinity(0)),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
        }
    elif address != "auto":
        _reach(address)
    try:
        ray.init(
            **options,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            configure_logging=True,
        )
    except Exception as error:  # Ray raises bare ones, too
        where = "on this machine" if address is None else f"at {address}"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"no Ray cluster {where}: {reason}") from error


def _reach(address: str) -> None:
    """Fails where there is no cluster; Ray itself would try for minutes, with pages."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(
            f"address is {address!r}; allowed: host:port, ray://host:port, auto"
        )
    try:
        with socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT):
            pass
    except OSError as error:
        raise ValueError(
            f"no Ray cluster at {address}: {error.strerror or error}"
        ) from error
    # Something else may listen there.
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY, address],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS_TO_ANSWER,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"no Ray cluster at {address}: what listens there has not answered in "
            f"{_SECONDS_TO_ANSWER:.0f} seconds"
        ) from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        raise ValueError(f"no Ray cluster at {address}: {reason}")


def _check_room(nodes: Sequence[dict[str, Any]], resources: Resources) -> None:
    """Checks that some machine has what a cell asks for; Ray would wait for ever."""
    asked = {"CPU": resources.cpus, "GPU": resources.gpus, "TPU": resources.tpus}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(r.get(k, 0) >= n for k, n in asked.items()) for r in alive):
        return
    most = {k: int(max((r.get(k, 0) for r in alive), default=0)) for k in asked}
    raise ValueError(
        "a cell asks for "
        + ", ".join(f"{n:g} {k}s" for k, n in asked.items() if n)
        + "; the largest machine has "
        + ", ".join(f"{most[k]} {k}s" for k, n in asked.items() if n)
    )


def _problem(ray: Any, ref: Any) -> str | None:
    """Why a cell that has ended was lost."""
    try:
        ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        return str(error.cause)
    except ray.exceptions.RayError as error:
        return f"its worker was lost ({type(error).__name__})"
    return None
