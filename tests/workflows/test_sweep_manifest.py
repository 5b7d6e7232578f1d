"""The manifests of a sweep: a JobSet as Kubernetes takes it, a script as sh does."""

import json
import shlex
import subprocess

import pytest

from miue_jax.workflows.sweep import manifest

COMMAND = ["miue", "sweep", "shapes", "--generators", "clean", "--workdir", "/data/run"]
OPTIONS = ["--accelerator=v5litepod-16", "--image=registry.example/miue"]
OPTIONS += ["--claim=data"]

# Fields and their types as the reference documents them, of those that are used here:
# JobSet (jobset.x-k8s.io/v1alpha2, https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/),
# Job and Pod (https://kubernetes.io/docs/reference/generated/kubernetes-api/). A mark
# says that the field must be there.
POD = {
    "restartPolicy!": str,
    "nodeSelector": {str: str},
    "containers!": [
        {
            "name!": str,
            "image!": str,
            "command": [str],
            "env": [
                {
                    "name!": str,
                    "value": str,
                    "valueFrom": {"fieldRef": {"fieldPath!": str}},
                }
            ],
            "ports": [{"containerPort!": int}],
            "resources": {"requests": {str: int}, "limits": {str: int}},
            "volumeMounts": [{"name!": str, "mountPath!": str}],
        }
    ],
    "volumes": [{"name!": str, "persistentVolumeClaim": {"claimName!": str}}],
}
JOB = {
    "completionMode": str,
    "completions": int,
    "parallelism": int,
    "backoffLimit": int,
    "podFailurePolicy": {
        "rules!": [
            {
                "action!": str,
                "onExitCodes": {
                    "containerName": str,
                    "operator!": str,
                    "values!": [int],
                },
            }
        ]
    },
    "template!": {"spec!": POD},
}
JOBSET = {
    "apiVersion!": str,
    "kind!": str,
    "metadata!": {"name!": str, "annotations": {str: str}},
    "spec!": {
        "network": {"enableDNSHostnames": bool, "subdomain": str},
        "failurePolicy": {
            "maxRestarts": int,
            "restartStrategy": str,
            "rules": [
                {
                    "name!": str,
                    "action!": str,
                    "onJobFailureReasons": [str],
                    "onJobFailureMessagePatterns": [str],
                    "targetReplicatedJobs": [str],
                }
            ],
        },
        "replicatedJobs!": [
            {
                "name!": str,
                "groupName": str,
                "replicas": int,
                "template!": {"spec!": JOB},
            }
        ],
    },
}


def check(value, schema, path="jobset"):
    if isinstance(schema, type):
        assert type(value) is schema, path
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        assert value, path
        for number, item in enumerate(value):
            check(item, schema[0], f"{path}[{number}]")
    elif str in schema:
        for key, item in value.items():
            check(key, str, path)
            check(item, schema[str], f"{path}.{key}")
    else:
        known = {key.rstrip("!"): inner for key, inner in schema.items()}
        assert value.keys() <= known.keys(), path
        assert {key[:-1] for key in schema if key.endswith("!")} <= value.keys(), path
        for key, item in value.items():
            check(item, known[key], f"{path}.{key}")


def made(**changes):
    options = {
        "accelerator": "v5litepod-16",
        "image": "registry.example/miue",
        "claim": "data",
        "mount": "/data",
    }
    return manifest.jobset(COMMAND, **options | changes)


@pytest.mark.parametrize("accelerator", manifest.ACCELERATORS)
def test_a_jobset_has_the_documented_fields(accelerator):
    check(made(accelerator=accelerator, slices=3), JOBSET)


def test_the_check_of_the_fields_finds_what_is_wrong():
    for wrong in (
        {"kind": "JobSet"},
        {**made(), "specs": {}},
        {**made(), "spec": {**made()["spec"], "replicatedJobs": []}},
        {**made(), "kind": 5},
    ):
        with pytest.raises(AssertionError):
            check(wrong, JOBSET)


def test_a_process_per_host_with_its_index_as_its_number():
    spec = made(slices=2)["spec"]
    (replicated,) = spec["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert replicated["replicas"] == 2
    assert (job["completionMode"], job["completions"], job["parallelism"]) == (
        *("Indexed", 4, 4),
    )
    (container,) = job["template"]["spec"]["containers"]
    assert container["command"] == COMMAND
    env = {entry["name"]: entry for entry in container["env"]}
    field = env["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert env["JAX_NUM_PROCESSES"]["value"] == "4"
    # Host 0 of its own slice: <jobset>-<job>-<job index>-<pod index>.<jobset>.
    address = env["JAX_COORDINATOR_ADDRESS"]["value"]
    assert address == "miue-sweep-slice-$(JOB_INDEX)-0.miue-sweep:8476"
    # What a variable refers to must stand before it.
    assert list(env).index("JOB_INDEX") < list(env).index("JAX_COORDINATOR_ADDRESS")


def test_slices_have_the_chips_of_their_topology():
    for name, found in manifest.ACCELERATORS.items():
        sides = [int(side) for side in found.topology.split("x")]
        chips = 1
        for side in sides:
            chips *= side
        assert chips == found.hosts * found.chips, name
        counted = int(name.partition("-")[2])
        assert counted == chips * (2 if len(sides) == 3 else 1), name


def test_a_queued_resource_is_a_script_that_runs_the_command(tmp_path):
    command = [*COMMAND, "--data-name", "it's here"]
    text = manifest.queued_resource(command, accelerator="v6e-8", zone="us-east5-b")
    script = tmp_path / "script.sh"
    script.write_text(text)
    subprocess.run(["sh", "-n", str(script)], check=True)
    # A gcloud that writes down how it is called; the resource is there after creation.
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" --end >> {tmp_path}/calls\n'
        'case "$*" in\n'
        f"*create*) touch {tmp_path}/made ;;\n"
        f"*describe*) [ -e {tmp_path}/made ] && echo ACTIVE ;;\n"
        "esac\n"
    )
    gcloud.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    subprocess.run(["sh", str(script)], check=True, env={"PATH": path}, timeout=60)
    calls = (tmp_path / "calls").read_text().split("--end\n")
    assert "--accelerator-type\nv6e-8\n--runtime-version\nv2-alpha-tpuv6e\n" in calls[1]
    assert calls[-2].startswith("compute\ntpus\ntpu-vm\nssh\nmiue-sweep\n")
    assert shlex.split(calls[-2].splitlines()[-1]) == command


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accelerator": "v5litepod-15"}, "did you mean 'v5litepod-16'"),
        ({"name": "My sweep"}, "name is 'My sweep'; allowed: up to 40 small letters"),
        ({"claim": ""}, "claim is ''"),
        ({"slices": 0}, "slices is 0"),
        ({"mount": "data"}, "mount is 'data'; allowed: absolute paths"),
    ],
)
def test_a_manifest_of_wrong_settings_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        made(**change)


def test_the_command_prints_manifests(miue):
    status, output, errors = miue("sweep", "manifest", *COMMAND[2:], *OPTIONS)
    assert (status, errors) == (0, "")
    assert json.loads(output) == made()
    options = ["--form=queued-resource", "--accelerator=v6e-8", "--zone=us-east5-b"]
    status, output, errors = miue(*COMMAND[1:], *options, "manifest")
    assert (status, errors) == (0, "")
    assert output == manifest.queued_resource(
        COMMAND, accelerator="v6e-8", zone="us-east5-b"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (COMMAND[2:], "--accelerator is missing"),
        ([*COMMAND[2:], OPTIONS[0]], "--image is missing"),
        ([*COMMAND[2:], OPTIONS[0], "--form=queued-resource"], "--zone is missing"),
        (["shapes", "--workdir=run", *OPTIONS], "--workdir is run; name it from /"),
        (["shapes", "--workdir=/run", *OPTIONS], "it must lie below --mount /data"),
        ([*COMMAND[2:], "--accelerator=v9", *OPTIONS[1:]], "unknown accelerator 'v9'"),
    ],
)
def test_bad_input_of_a_manifest_is_one_line(miue, arguments, message):
    status, output, errors = miue("sweep", "manifest", *arguments)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert message in errors
