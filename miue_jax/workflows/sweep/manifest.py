"""Manifests that run a sweep on TPU slices: a Kubernetes JobSet, a queued resource."""

import re
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from miue_jax import _checks

__all__ = ["ACCELERATORS", "Accelerator", "jobset", "queued_resource"]

_PORT = 8476

# Bad input, which a restart would not mend.
_BAD_INPUT = 2

_RESTARTS = 10


class Accelerator(NamedTuple):
    """A TPU slice.

    Attributes:
      label: of GKE's nodes.
      topology: of the slice.
      hosts: machines of the slice, a process each.
      chips: of a host.
      runtime: the software of a TPU VM.

    Example:
      >>> from miue_jax.workflows.sweep import manifest
      >>> manifest.ACCELERATORS["v5litepod-16"].hosts
      4
    """

    label: str
    topology: str
    hosts: int
    chips: int
    runtime: str


# By the names of Cloud TPU, which count cores for v4 and v5p, and chips for the others.
# https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus
_FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBES = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4", 64: "2x4x4", 128: "4x4x4"}

ACCELERATORS = {
    f"{name}-{size}": Accelerator(label, topology, hosts, size // hosts, runtime)
    for name, label, runtime in (
        ("v5litepod", "tpu-v5-lite-podslice", "v2-alpha-tpuv5-lite"),
        ("v6e", "tpu-v6e-slice", "v2-alpha-tpuv6e"),
    )
    for size, topology in _FLAT.items()
    # Up to eight chips are in one machine, more are in machines of four.
    for hosts in (1 if size <= 8 else size // 4,)
} | {
    f"{name}-{cores}": Accelerator(label, topology, cores // 8, 4, runtime)
    for name, label, runtime in (
        ("v4", "tpu-v4-podslice", "tpu-ubuntu2204-base"),
        ("v5p", "tpu-v5p-slice", "v2-alpha-tpuv5"),
    )
    for cores, topology in _CUBES.items()
}


def jobset(
    command: Sequence[str],
    *,
    accelerator: str,
    image: str,
    claim: str,
    mount: str,
    name: str = "miue-sweep",
    slices: int = 1,
) -> dict[str, Any]:
    """A Kubernetes JobSet whose slices share the cells of a sweep.

    Every slice is a job with a process per host, whose completion index is the process
    id of `jax.distributed`. Slices share the cells by the locks of the directory. Hosts
    that are lost restart the slices, which resume; bad input does not.

    Args:
      command: what every process runs.
      accelerator: of a slice, see `ACCELERATORS`.
      image: the container, in which `miue_jax` is installed.
      claim: name of the volume claim, which all hosts can write to and lock files in.
      mount: where the volume is mounted, an absolute path above the sweep's directory.
      name: of the JobSet.
      slices: how many.

    Returns:
      The JobSet (jobset.x-k8s.io/v1alpha2), as JSON can hold it.

    Raises:
      ValueError: if the accelerator is unknown or a name is not one of Kubernetes.

    Example:
      >>> from miue_jax.workflows.sweep import manifest
      >>> made = manifest.jobset(
      ...     ["miue", "sweep", "shapes", "--workdir", "/data/sweep"],
      ...     accelerator="v5litepod-16",
      ...     image="registry.example/miue",
      ...     claim="data",
      ...     mount="/data",
      ... )
      >>> made["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]
      4
    """
    found = _accelerator(accelerator)
    _check_name("name", name)
    _check_name("claim", claim)
    _checks.check_text("image", image)
    _checks.check_number("slices", slices, "> 0", whole=True)
    if not re.fullmatch(r"(/[\w.-]+)+", mount):
        raise ValueError(f"mount is {mount!r}; allowed: absolute paths")
    container = {
        "name": "miue",
        "image": image,
        "command": list(command),
        "env": [
            _from_pod("JOB_INDEX", "labels['jobset.sigs.k8s.io/job-index']"),
            _from_pod(
                "JAX_PROCESS_ID",
                "annotations['batch.kubernetes.io/job-completion-index']",
            ),
            {"name": "JAX_NUM_PROCESSES", "value": str(found.hosts)},
            {
                "name": "JAX_COORDINATOR_ADDRESS",
                "value": f"{name}-slice-$(JOB_INDEX)-0.{name}:{_PORT}",
            },
        ],
        "ports": [{"containerPort": _PORT}],
        "resources": {
            kind: {"google.com/tpu": found.chips} for kind in ("requests", "limits")
        },
        "volumeMounts": [{"name": "data", "mountPath": mount}],
    }
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": found.label,
            "cloud.google.com/gke-tpu-topology": found.topology,
        },
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    exits = {"containerName": "miue", "operator": "In", "values": [_BAD_INPUT]}
    job = {
        "completionMode": "Indexed",
        "completions": found.hosts,
        "parallelism": found.hosts,
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": exits}]},
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            "annotations": {
                # A slice is a node pool, and none is shared.
                "alpha.jobset.sigs.k8s.io/exclusive-topology": (
                    "cloud.google.com/gke-nodepool"
                )
            },
        },
        "spec": {
            "network": {"enableDNSHostnames": True},
            "failurePolicy": {
                "maxRestarts": _RESTARTS,
                "rules": [
                    {
                        "name": "badInput",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": slices, "template": {"spec": job}}
            ],
        },
    }


def queued_resource(
    command: Sequence[str],
    *,
    accelerator: str,
    zone: str,
    name: str = "miue-sweep",
) -> str:
    """A shell script that asks for a TPU slice, waits for it and runs a sweep there.

    Every host runs the command; JAX finds out their number and its own from the TPU.

    Args:
      command: what every host runs; its directory must be shared by all of them.
      accelerator: of the slice, see `ACCELERATORS`.
      zone: of Google Cloud.
      name: of the queued resource and of its node.

    Returns:
      The script.

    Raises:
      ValueError: if the accelerator is unknown or a name is not allowed.

    Example:
      >>> from miue_jax.workflows.sweep import manifest
      >>> script = manifest.queued_resource(
      ...     ["miue", "sweep", "shapes", "--workdir", "/data/sweep"],
      ...     accelerator="v6e-8",
      ...     zone="us-east5-b",
      ... )
      >>> script.splitlines()[0]
      '#!/bin/sh'
    """
    found = _accelerator(accelerator)
    _check_name("name", name)
    _check_name("zone", zone)
    run = shlex.quote(shlex.join(command))
    return f"""#!/bin/sh
# Asks for {found.hosts} host(s) of {accelerator}, topology {found.topology}.
# Run it again to go on after a stop.
set -eu
name={name} zone={zone}
queued="gcloud compute tpus queued-resources"
if ! $queued describe "$name" --zone "$zone" >/dev/null 2>&1; then
    $queued create "$name" --node-id "$name" --zone "$zone" \\
        --accelerator-type {accelerator} --runtime-version {found.runtime}
fi
while :; do
    state=$($queued describe "$name" --zone "$zone" --format "value(state.state)")
    case "$state" in
    ACTIVE) break ;;
    FAILED | SUSPENDING | SUSPENDED)
        echo "the queued resource is $state" >&2
        exit 1
        ;;
    esac
    sleep 30
done
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all --command {run}
"""


def _accelerator(name: str) -> Accelerator:
    if name not in ACCELERATORS:
        raise _checks.unknown("accelerator", name, ACCELERATORS)
    return ACCELERATORS[name]


def _check_name(kind: str, name: str) -> None:
    # With its index and that of a pod, it becomes a host's name of 63 letters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name):
        raise ValueError(
            f"{kind} is {_checks.shown(name)}; allowed: up to 40 small letters, digits "
            "and dashes, a letter first"
        )


def _from_pod(name: str, field: str) -> dict[str, Any]:
    return {
        "name": name,
        "valueFrom": {"fieldRef": {"fieldPath": f"metadata.{field}"}},
    }
