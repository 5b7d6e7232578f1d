"""All that waits for a GPU, in one command of nine minutes.

    python experiments/gpu_run.py --data cifar10-jpeg.tar.xz --workdir runs/gpu

It has not been run on a GPU yet, for want of one: neither its result nor its time is
known. Wanted of one H100 or H200 are 5 times the speed of eager PyTorch in float32, 1.2
times that of compiled PyTorch in bfloat16, and 35 % of the peak.

The steps, each a process of its own, in this order: a check against figures of the
host's CPU; the benchmark beside PyTorch; interleaved MI-UE of all of CIFAR-10 with
ResNet-18 in bfloat16, 30 epochs; victims by EM's protocol cut to 15 epochs, on
protected and on clean images; where time is left, the rest of the benchmark, and
`mi_ue/robust` with four steps a visit behind compression.

DATA is a folder with train/CLASS and test/CLASS, an archive of one, or what `miue
protect` takes. results.json in WORKDIR holds what each step found as soon as it ends. A
step that uses up its share of the time is stopped, one for which none is left is
skipped, and both are named; the same command goes on with them, and --minutes is then
the time it takes once more. `--size small` tries all steps on any machine in a few
minutes. The matrix of all generators is experiments/matrix_cifar10_gpu.py.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, Literal, NamedTuple

from miue_jax import _checks, _command_line
from miue_jax.data import bucket, public
from miue_jax.train import run_directory

PROG = "gpu_run.py"
RESULTS = "results.json"

_HERE = pathlib.Path(__file__).parent
# A stopped step writes a checkpoint, half a gigabyte of perturbation.
_SECONDS_TO_STOP = 15.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)
# Less is not worth the start of a process.
_SHORTEST = 5.0

# Cases of the benchmark that are for accelerators; the others come last.
_FIRST = [
    f"{kind}_resnet18_w64_b{size}_bfloat16"
    for size in (128, 1024)
    for kind in ("train", "perturb")
]
_FIRST += [f"mi_ue_{size}" for size in (16384, 65536)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Runs all that waits for a GPU, within a given time.

    Attributes:
      data: a folder with train and test, an archive of one, or the name of a data set.
      workdir: directory of the run; rerun the same command to go on.
      minutes: all steps together take no longer.
      size: full; or small, which tries all steps on any machine.
    """

    data: str = "shapes"
    workdir: pathlib.Path = pathlib.Path("runs/gpu")
    minutes: float = 9.0
    size: Literal["full", "small"] = "full"


class Step(NamedTuple):
    """A process.

    Attributes:
      command: behind the Python interpreter.
      until: the share of the time at which it is stopped.
      made: the file that holds what it found, in the directory of the run.
      after: the steps that must be done before.
    """

    command: list[str]
    until: float
    made: str
    after: tuple[str, ...] = ()


def steps(options: Options) -> dict[str, Step]:
    """The steps by name, in their order.

    Args:
      options: of the command.

    Returns:
      The steps. What one leaves of its share the next ones have.
    """
    small, work = options.size == "small", options.workdir
    found: dict[str, Step] = {}
    data, packed = options.data, ()
    if _is_packed(options.data):
        data, packed = str(work / "data.npz"), ("pack",)
        command = [str(_HERE / "gpu" / "pack.py"), options.data, data]
        found["pack"] = Step(command, 0.2, "data.npz")
    smoke = [str(_HERE / "gpu" / "smoke.py"), str(work / "smoke.json"), options.size]
    found["smoke"] = Step(smoke, 0.25, "smoke.json")
    miue = ["-m", "miue_jax"]
    measure = [*miue, "benchmark", "--output", str(work / "benchmark.json")]
    measure += ["--repetitions", "5"]
    if small:
        measure = [*measure[:-1], "1", "--size", "small"]
    cases = ["mi_ue_128"] if small else _FIRST
    found["benchmark"] = Step([*measure, "--cases", *cases], 0.5, "benchmark.json")

    few = ["--data.per-class", "10"] if small and not packed else []
    model = ["lenet5", "float32"] if small else ["resnet18", "bfloat16"]

    def fast(part: str, epochs: int) -> list[str]:
        chosen = {
            "model": model[0],
            "dtype": model[1],
            "epochs": 1 if small else epochs,
        }
        return [f"--{part}.{name}={value}" for name, value in chosen.items()]

    def protect(name: str, generator: str, until: float, *more: str) -> None:
        command = [*miue, "protect", data, *few, "--generator", generator, *more]
        command += [*fast("generator", 30), "--checkpoint-every", "2000", "--quiet"]
        found[name] = Step(
            [*command, "--workdir", str(work / name)],
            until,
            f"{name}/metrics.jsonl",
            packed,
        )

    def victim(name: str, of: str | None, defense: str, until: float) -> None:
        images = data if of is None else str(work / of / "protected.npz")
        command = [*miue, "evaluate", images, data, "--victim", "em", "--seeds", "0"]
        command += ["--defense", defense, "--evaluate-every", "5", "--quiet"]
        if few:
            command += ["--test.per-class", "10"]
            command += ["--train.per-class", "10"] if of is None else []
        command += [*fast("victim", 15), "--checkpoint-every", "5"]
        found[name] = Step(
            [*command, "--workdir", str(work / name)],
            until,
            f"{name}/results.json",
            (*packed, *([] if of is None else [of])),
        )

    protect("mi_ue", "mi_ue/interleaved", 0.8)
    victim("mi_ue_victim", "mi_ue", "none", 0.9)
    victim("clean_victim", None, "none", 1.0)
    if not small:
        found["benchmark_rest"] = Step(measure, 1.0, "benchmark.json")
    protect("robust", "mi_ue/robust", 1.0, "--generator.pgd-steps=4")
    victim("robust_victim_jpeg_10", "robust", "jpeg-10", 1.0)
    victim("clean_victim_jpeg_10", None, "jpeg-10", 1.0)
    return found


def _is_packed(data: str) -> bool:
    return os.path.isdir(data) or ".tar" in pathlib.Path(data).suffixes


def run(options: Options) -> dict[str, Any]:
    """Runs the steps that are not done yet, as far as the time goes.

    Args:
      options: of the command.

    Returns:
      What results.json holds: how each step ended, and what it found.

    Raises:
      ValueError: if an option is not allowed, or the directory holds a run of another
        size or of other data.
    """
    began = time.monotonic()
    _checks.check_number("minutes", options.minutes, "> 0")
    _checks.check_choice("size", options.size, ("full", "small"))
    if not options.data:
        raise ValueError("data is empty: name a data set, such as shapes")
    bucket.refuse(data=options.data)
    bucket.place(options.workdir)  # the path of an address is refused
    is_path = "/" in options.data or _is_packed(options.data)
    if is_path and not os.path.exists(options.data):
        raise ValueError(f"{options.data}: no such data")
    budget = 60 * options.minutes - _SECONDS_TO_STOP
    file = options.workdir / RESULTS
    settings = {"data": pathlib.Path(options.data).name, "size": options.size}
    results: dict[str, Any] = {"settings": settings, "steps": {}}
    if file.exists():
        results = run_directory.read_json(file, needed=results)
    else:
        run_directory.check_place(options.workdir)
    if results["settings"] != settings:
        raise ValueError(f"{options.workdir} holds a run of {results['settings']}")
    with run_directory.locked(options.workdir):
        results["command"] = public.command(
            ["python", f"experiments/{PROG}", *sys.argv[1:]]
        )
        run_directory.write_json(file, results)
        environment = dict(os.environ)
        cache = str((options.workdir / "compiled").absolute())
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        # The last line of a log is then what went wrong.
        environment.setdefault("JAX_TRACEBACK_FILTERING", "off")
        done = results["steps"]
        for name, step in steps(options).items():
            if done.get(name, {}).get("status") == "done":
                continue
            left = step.until * budget - (time.monotonic() - began)
            waits = [x for x in step.after if done.get(x, {}).get("status") != "done"]
            if done.get("smoke", {}).get("status") == "failed" and name != "smoke":
                done[name] = {"status": "skipped", "why": "smoke failed"}
            elif waits:
                done[name] = {"status": "skipped", "why": f"{waits[0]} is not done"}
            elif left < _SHORTEST:
                done[name] = {"status": "skipped", "why": "no time is left for it"}
            else:
                print(f"{name}: {left:.0f} s at most", file=sys.stderr, flush=True)
                done[name] = _run_step(step, left, environment, options.workdir / name)
            done[name] |= _found(options.workdir / step.made)
            run_directory.write_json(file, results)
            print(f"{name}: {_told(done[name])}", file=sys.stderr, flush=True)
    return results


def _run_step(
    step: Step, seconds: float, environment: dict[str, str], log: pathlib.Path
) -> dict[str, Any]:
    began = time.monotonic()
    with log.with_suffix(".log").open("ab") as output:
        # A signal while it starts would leave it to itself.
        came: list[int] = []
        handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, *_ENDING)}
        handlers = {n: handler for n, handler in handlers.items() if callable(handler)}
        for number in handlers:
            signal.signal(number, lambda number, _: came.append(number))
        process = subprocess.Popen(
            [sys.executable, *step.command],
            stdout=output,
            stderr=output,
            env=environment,
            # With all processes that it has started.
            start_new_session=True,
        )
        try:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for number in came:
                signal.raise_signal(number)
            status = process.wait(seconds)
            why = "" if status == 0 else _last_line(log.with_suffix(".log"))
            ended = {"status": "failed", "why": why} if status else {"status": "done"}
        except subprocess.TimeoutExpired:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_STOP)
            ended = {"status": "cut", "why": "its time was up"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {**ended, "seconds": round(time.monotonic() - began, 1)}


def _last_line(log: pathlib.Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return _checks.one_line(lines[-1], 300) if lines else "it said nothing"


def _found(path: pathlib.Path) -> dict[str, Any]:
    """What a step has found, also one that was cut."""
    if path.suffix == ".json" and path.exists():
        return {"found": run_directory.read_json(path)}
    if path.suffix == ".jsonl" and path.exists():
        whole = [line for line in path.read_text().split("\n")[:-1] if line]
        return {"found": json.loads(whole[-1])} if whole else {}
    return {}


def _told(step: dict[str, Any]) -> str:
    text = step["status"]
    if "seconds" in step:
        text += f" after {step['seconds']:.0f} s"
    if step.get("why"):
        text += f" ({step['why']})"
    found = step.get("found", {})
    if "final" in found:
        text += f", accuracy {100 * found['final']['mean']:.1f} %"
    wrong = [k for k, row in found.get("figures", {}).items() if not row["ok"]]
    if "figures" in found:
        text += f", figures that differ: {', '.join(wrong) or 'none'}"
    return text


def main() -> None:
    """Runs the steps, and prints how they ended and the table of the benchmark."""
    from miue_jax.workflows.benchmark import table

    options = _command_line.parse(Options, sys.argv[1:], prog=PROG)
    # So that the step that is running ends, too, also where a terminal is closed.
    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        results = run(options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for name, step in results["steps"].items():
        print(f"{name}: {_told(step)}")
    for name in ("benchmark_rest", "benchmark"):
        if "found" in results["steps"].get(name, {}):
            print(f"\n{table.render(results['steps'][name]['found'])}")
            break
    print(f"{options.workdir / RESULTS}")


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
