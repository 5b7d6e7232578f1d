"""Slurm, by submitit: arrays of cells, in which victims depend on their generators."""

import functools
import importlib.util
import pathlib
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from miue_jax.data.bucket import Address, Place
from miue_jax.workflows.sweep import status
from miue_jax.workflows.sweep.launch import Launcher, Resources, Submission
from miue_jax.workflows.sweep.launchers import work
from miue_jax.workflows.sweep.plan import Sweep
from miue_jax.workflows.sweep.tasks import Task

__all__ = ["launcher"]


def launcher(
    resources: Resources | None = None, options: Mapping[str, str] | None = None
) -> Launcher:
    """Slurm: an array of the generators, and one of the victims of each.

    A cell that is preempted or runs into its time limit is queued again and resumes.
    One that comes to nothing, such as one that diverges, is not. Victims whose
    generator was lost leave the queue. Submitit's own files, the logs among them, lie
    in ``.logs/slurm`` of the sweep's directory; where that is in a bucket, in
    ``miue-slurm`` of the current directory, which all nodes must see.

    Args:
      resources: what every cell asks for; None for a core.
      options: of sbatch, by their long names without dashes: partition, account, and
        so on.

    Returns:
      The launcher. It raises a ValueError if submitit is not installed, there is no
      Slurm, or it refuses a job.

    Example:
      >>> from miue_jax.workflows.sweep.launchers import slurm
      >>> slurm.launcher(options={"partition": "gpu"}).detached
      True
    """
    submit = functools.partial(_submit, resources or Resources(), dict(options or {}))
    return Launcher(submit, detached=True)


def _submit(
    resources: Resources,
    options: dict[str, str],
    sweep: Sweep,
    workdir: Place,
    tasks: Sequence[Task],
) -> Submission:
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("submitit is not installed: pip install miue_jax[slurm]")
    for command in ("sbatch", "srun", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise ValueError(f"there is no Slurm on this machine: no {command}")
    if resources.gpus != int(resources.gpus):
        raise ValueError(f"gpus is {resources.gpus}; Slurm takes whole numbers")
    if resources.tpus:
        raise ValueError("tpus are not Slurm's; allowed: cpus and gpus")
    _check_room(resources, options)
    from submitit.core.utils import FailedJobError

    if isinstance(workdir, Address):
        logs = pathlib.Path.cwd() / "miue-slurm"
    else:
        workdir = workdir.absolute()
        logs = workdir / ".logs" / "slurm"
    call = Cell(sweep.to_plain(), str(workdir), resources)
    ids: dict[str, str] = {}
    try:
        for after, group in _groups(tasks).items():
            depends = f"afterok:{ids[after]}" if after in ids else None
            ids |= _submit_array(logs, resources, options, call, group, depends)
    except FailedJobError as error:
        _cancel(ids.values())
        raise ValueError(f"Slurm: {_last_line(str(error))}") from error

    def check() -> None:
        states = status.status(sweep, workdir).states
        lost = [name for name in ids if states[name] not in ("done", "failed")]
        if lost:
            log = logs / f"{ids[lost[0]]}_0_log.err"
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise ValueError(f"{lost[0]}{more} left the queue unfinished; see {log}")

    return Submission(
        lambda: not _queued(ids.values()),
        lambda _: _cancel(ids.values()),
        check,
        lambda: None,
    )


class Cell:
    """What a job calls; submitit asks it what to do when the job is preempted."""

    def __init__(
        self, settings: dict[str, Any], workdir: str, resources: Resources
    ) -> None:
        self.settings, self.workdir, self.resources = settings, workdir, resources

    def __call__(self, name: str) -> str | None:
        """Runs a cell."""
        return work.run(self.settings, self.workdir, self.resources, name)

    def checkpoint(self, name: str) -> Any:
        """Queues the cell again, which resumes from its own checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, name)


def _check_room(resources: Resources, options: Mapping[str, str]) -> None:
    """Checks that some node has what a cell asks for; jobs would wait for ever."""
    where = [f"--partition={options['partition']}"] if "partition" in options else []
    lines = _slurm("sinfo", "--noheader", "--Node", "--format=%c %G", *where)
    nodes = [_room(line) for line in lines.splitlines()]
    asked = (resources.cpus, int(resources.gpus))
    # Without any, the partition is unknown, as sbatch will say.
    if nodes and not any(n[0] >= asked[0] and n[1] >= asked[1] for n in nodes):
        text = f"{asked[0]} CPUs" + (f" and {asked[1]} GPUs" if asked[1] else "")
        raise ValueError(f"a cell asks for {text}; no node of Slurm has as many")


def _room(line: str) -> tuple[int, int]:
    """The CPUs and GPUs of a node, such as "64 gpu:a100:4(S:0-1)" says."""
    cpus, _, generic = line.strip().partition(" ")
    gpus = re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", generic)
    return int(cpus), sum(map(int, gpus))


def _groups(tasks: Sequence[Task]) -> dict[str | None, list[str]]:
    """Names of tasks by the one that they wait for, generators first."""
    found: dict[str | None, list[str]] = {}
    queued = {task.name for task in tasks}
    for task in tasks:
        after = next((name for name in task.after if name in queued), None)
        found.setdefault(after, []).append(task.name)
    return {None: found.pop(None, []), **found}


def _submit_array(
    logs: pathlib.Path,
    resources: Resources,
    options: dict[str, str],
    call: Cell,
    names: Sequence[str],
    depends: str | None,
) -> dict[str, str]:
    """Submits an array, and returns the job of every cell."""
    import submitit

    if not names:
        return {}
    executor = submitit.SlurmExecutor(folder=logs)
    more = dict(options)
    if depends is not None:
        more |= {"dependency": depends, "kill-on-invalid-dep": "yes"}
    executor.update_parameters(
        job_name="miue",
        time=resources.minutes,
        cpus_per_task=resources.cpus,
        **({"gpus_per_node": int(resources.gpus)} if resources.gpus else {}),
        additional_parameters=more,
    )
    jobs = executor.map_array(call, list(names))
    return {name: job.job_id for name, job in zip(names, jobs, strict=True)}


def _queued(ids: Any) -> bool:
    """Whether Slurm still has one of these jobs, or an array that they are of."""
    arrays = {job.partition("_")[0] for job in ids}
    listed = _slurm("squeue", "--noheader", "--me", "--format=%A %F").split()
    return bool(arrays & set(listed))


def _cancel(ids: Any) -> None:
    if ids := list(ids):
        # The batch script and the step in it: both are to save.
        _slurm("scancel", *ids)


def _slurm(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"Slurm: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no answer"])[-1]
