"""Checks every statement of docs/theory.md numerically and draws the bounds.

    python experiments/verify_theory.py --workdir runs/theory

The result is results/theory.json: 123 of 123 claims hold. It takes 40 seconds on two
cores, and with `--quick`, for fewer instances, less.

Random instances in float64 from a seed: exact algebra over finite distributions,
quadrature, and Monte-Carlo of known densities. Prints a table, writes theory.json and
four PNG plots, and exits with status 1 if a statement fails.
"""

import dataclasses
import pathlib
import platform
import sys
import time

import jax
from theory import (
    check,
    counterexamples,
    covariance,
    estimators,
    finite,
    gaussian,
    mixtures,
    path,
    plots,
    samples,
)

from miue_jax import _checks, _command_line
from miue_jax.data import public
from miue_jax.train import run_directory

PROG = "verify_theory.py"

FAILED = 1
RESULTS = "theory.json"

CHECKS = (
    check.Check("T1", finite.decomposition, 4000, 400),
    check.Check("T2", mixtures.covariance_bound, 400, 40),
    check.Check("T3", covariance.logdet_algebra, 3000, 500),
    check.Check("T4", mixtures.contraction, 80, 16),
    check.Check("T5", covariance.gaussian_forms, 1000, 200),
    check.Check("T6", covariance.cosine_trace, 1000, 200),
    check.Check("T7", samples.cosine_bounds, 200, 60),
    check.Check("T8", gaussian.label_information, 200, 40),
    check.Check("T9", mixtures.one_gaussian_side, 18, 18),
    check.Check("T10", finite.generalization, 4000, 400),
    check.Check("T11", finite.depth, 4000, 400),
    check.Check("T12", mixtures.pairing, 50, 10),
    check.Check("T13", gaussian.plug_in, 4000, 800),
    check.Check("T13", gaussian.gaussian, 200, 40),
    check.Check("T13", samples.confidence, 400, 60),
    check.Check("T14", samples.reidentification, 200, 60),
    check.Check("E1", estimators.club, 100, 100),
    check.Check("E2", estimators.info_nce, 200, 40),
    check.Check("E3", estimators.density_ratio, 10, 10),
    check.Check("E4", estimators.slices, 100, 10),
    check.Check("F1", counterexamples.scaling, 2, 2),
    check.Check("F2", counterexamples.residual, 2, 2),
    check.Check("F3", counterexamples.collapse, 5, 5),
    check.Check("F4", counterexamples.atoms, 2, 2),
    check.Check("F5", counterexamples.large_covariance, 4, 4),
    check.Check("F6", counterexamples.radii, 1, 1),
    check.Check("F7", mixtures.vacuous_certificate, 400, 40),
    check.Check("F8", finite.floor, 4000, 400),
    check.Check("F8", counterexamples.total_covariance, 2, 2),
    check.Check("F9", path.same_accuracy, 20000, 4000),
    check.Check("F10", covariance.scale, 8, 8),
    check.Check("S", path.sandwich, 20000, 4000),
)


def verify(seed: int, *, quick: bool) -> list[check.Result]:
    """Checks everything, printing every claim as it is done.

    Args:
      seed: of the random instances.
      quick: fewer instances.

    Returns:
      The claims' outcomes.
    """
    print(f"{'':7}{'':6}{'claim':<58}{'instances':>9}{'worst slack':>13}{'allowed':>9}")
    results = []
    for entry in CHECKS:
        # By name: a statement's instances stay the same when others are added.
        key = jax.random.fold_in(jax.random.key(seed), _number(entry.statement))
        count = entry.quick if quick else entry.count
        for claim, slack in entry.slacks(key, count).items():
            result = check.judge(entry.statement, claim, slack)
            results.append(result)
            print(_line(result), flush=True)
    return results


def draw(workdir: pathlib.Path, seed: int, *, quick: bool) -> None:
    """Draws the plots.

    Args:
      workdir: the directory to write them to.
      seed: of the random instances.
      quick: fewer instances.
    """
    key = jax.random.key(seed)
    number = 60 if quick else 200
    found = path.both(jax.random.fold_in(key, _number("S")), 4000 if quick else 20000)
    plots.bound_stack(workdir / "bounds-along-path.png", found)
    plots.cosine(workdir / "bounds-against-cosine.png", key, number)
    plots.resolution(workdir / "bounds-against-sigma.png", key, number)
    count = 400 if quick else 4000
    plots.accuracy(workdir / "accuracy-against-fano.png", key, count, found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Checks every statement of docs/theory.md numerically and draws the bounds.

    Attributes:
      workdir: directory of results and plots.
      seed: of the random instances.
      quick: fewer instances.
    """

    workdir: pathlib.Path = pathlib.Path("runs/theory")
    seed: int = 0
    quick: bool = False


def run(options: Options) -> bool:
    """Verifies, writes the results and draws.

    Args:
      options: of the command; the directory is created where it is missing.

    Returns:
      Whether every claim holds.

    Raises:
      ValueError: for a seed beyond 32 bits or a workdir that is not a directory.
    """
    workdir, seed, quick = options.workdir, options.seed, options.quick
    _checks.check_seeds("--seed", (seed,))
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir {workdir} is not a directory")
    workdir.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with jax.enable_x64(True):
        results = verify(seed, quick=quick)
        draw(workdir, seed, quick=quick)
    seconds = time.perf_counter() - began
    failed = [result for result in results if not result.passed]
    run_directory.write_json(
        workdir / RESULTS,
        {
            "command": public.command(["python", f"experiments/{PROG}", *sys.argv[1:]]),
            "hardware": f"{platform.processor() or platform.machine()}, "
            f"{jax.devices()[0].device_kind}",
            "seed": seed,
            "quick": quick,
            "jax": jax.__version__,
            "seconds": round(seconds, 1),
            "passed": not failed,
            "claims": [_plain(result) for result in results],
        },
    )
    for result in failed:
        print(f"failed: {result.statement}, {result.claim}")
    held = len(results) - len(failed)
    print(f"{held} of {len(results)} claims hold ({seconds:.0f} s); see {workdir}")
    return not failed


def _number(statement: str) -> int:
    return int.from_bytes(statement.encode())


def _line(result: check.Result) -> str:
    verdict = "ok" if result.passed else "FAILED"
    return (
        f"{verdict:<7}{result.statement:<6}{result.claim:<58}{result.instances:>9}"
        f"{result.slack:>13.1e}{result.tolerance:>9.0e}"
    )


def _plain(result: check.Result) -> dict[str, object]:
    # JSON knows no infinities: what is not a number has no slack.
    slack = result.slack if abs(result.slack) < float("inf") else None
    return {**result._asdict(), "slack": slack}


def main() -> int:
    """Runs the verification; status 1 if a claim fails."""
    options = _command_line.parse(Options, sys.argv[1:], prog=PROG)
    _command_line.keep_compiled()
    return 0 if run(options) else FAILED


if __name__ == "__main__":
    sys.exit(_command_line.run(main, PROG))
