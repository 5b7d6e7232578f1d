"""The command ``miue benchmark``."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from miue_jax._command_line import parse
from miue_jax._run_options import PROG


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkOptions:
    """Times this library beside others that do the same work.

    The others are those of `pip install miue_jax[benchmark]`; those that are missing
    are left out. All sides of a case are timed in turns in one process.

    Attributes:
      cases: names of cases; all by default.
      list: print the names of the cases and what they do.
      output: a JSON file for the results; rerun the same command to go on.
      repetitions: timed turns of every side.
      threads: of every side; by default one on the CPU, and all on accelerators.
      size: full; or small, which only tries whether all sides work.
      against: a wheel of an older build of this package, to compare with.
    """

    cases: tuple[str, ...] = ()
    list: bool = False
    output: str | None = None
    repetitions: int = 5
    threads: int | None = None
    size: Literal["full", "small"] = "full"
    against: str | None = None


def run(arguments: Sequence[str]) -> None:
    """Runs ``miue benchmark``.

    Args:
      arguments: the command line behind it.
    """
    given = parse(BenchmarkOptions, arguments, prog=f"{PROG} benchmark")
    if given.list:
        from miue_jax.workflows.benchmark.cases import CASES

        for name, case in CASES.items():
            only = " (accelerators)" if case.accelerator else ""
            print(f"{name:<37}{case.title}{only}")
        return
    from miue_jax.workflows.benchmark import run, table

    config = run.BenchmarkConfig(
        **{
            f.name: getattr(given, f.name)
            for f in dataclasses.fields(run.BenchmarkConfig)
        }
    )
    print(table.render(run.benchmark(config, output=given.output)))
