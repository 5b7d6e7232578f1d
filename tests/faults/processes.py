"""Two processes of one run, one of which is killed.

The other must end by itself, in one line; the same command must then end in the bytes
of a run that was left alone, with two processes or with one.
"""

import functools
import pathlib
import random
import socket

from tests.faults import commands, trials
from tests.faults.trials import Result

_COMMAND = (*trials.PROTECT, "--num-shards", "2")

# Seconds after which the other process is to miss the one that was killed, and what it
# may take beyond on a busy machine.
_HEARTBEAT, _SLACK = 20, 40
# JAX gives up after 300 s on a process that never came.
_PATIENCE = 360.0


def part(folder: pathlib.Path, options: trials.Options) -> trials.Part:
    """Kills one of two processes in each case."""
    with trials.sandbox(folder, "processes-one", keep=options.keep) as place:
        one = commands.run(_COMMAND, place, fresh=True)
        want = trials.outputs(place / "run")
    with trials.sandbox(folder, "processes-two", keep=options.keep) as place:
        two = [process.end(_PATIENCE) for process in _start(place)]
        same = trials.difference(want, place / "run") is None
    if one.status != 0 or any(x.status != 0 for x in two) or not same:
        raise RuntimeError(f"two processes are not like one: {one.err} {two[0].err}")
    duration = max(x.seconds for x in two)
    cases = {}
    for number, case in enumerate(trials.numbered("processes", range(options.count))):
        rng = trials.generator(options.seed, case)
        cases[case] = functools.partial(
            _trial,
            *(case, folder, rng, duration, want),
            victim=number % 2,
            again=1 + number // 2 % 2,
            keep=options.keep,
        )
    return trials.collect("a lost process", cases, options)


def _start(place: pathlib.Path) -> list[commands.Started]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        commands.start(
            _COMMAND,
            place,
            fresh=True,
            environment={
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
                "MIUE_HEARTBEAT_TIMEOUT": str(_HEARTBEAT),
            },
        )
        for index in range(2)
    ]


def _trial(
    case: str,
    folder: pathlib.Path,
    rng: random.Random,
    duration: float,
    want: dict[str, str],
    *,
    victim: int,
    again: int,
    keep: bool,
) -> Result:
    with trials.sandbox(folder, case, keep=keep) as place:
        delay = rng.uniform(0, duration)
        pair = _start(place)
        early = pair[victim].wait(delay)
        pair[victim].kill()
        pair[victim].end()
        other = pair[1 - victim].end(_PATIENCE)
        shown = (
            f"{commands.shown(_COMMAND)}  # as two processes, number {victim} killed "
            f"after {delay:.1f} s; then the same as {again}"
        )
        wrong = []
        if other.status != 0:
            # Whatever it says of itself; after a signal the status is negative.
            wrong.append(commands.refusal(other, statuses=range(1, 126), own=True))
        elif early is None and not (place / "run" / "protected.npz").exists():
            wrong.append("status 0, and nothing is written")
        waited = other.seconds - delay
        # Early on, the two may not have found each other yet.
        if delay > duration / 2 and waited > _HEARTBEAT + _SLACK:
            wrong.append(f"did not miss it within {_HEARTBEAT} s")
        wrong = [f"the other, after {waited:.0f} s: {x}" for x in wrong if x]
        if again == 2:
            ended = [process.end(_PATIENCE) for process in _start(place)]
        else:
            ended = [commands.run(_COMMAND, place, fresh=True)]
        wrong += [
            f"the rerun: status {x.status}: {x.err[-300:]}" for x in ended if x.status
        ]
        results = trials.difference(want, place / "run") or trials.remains(
            place / "run"
        )
    if not wrong and results is None:
        return Result(case, "equal", shown)
    wrong.append(f"the rerun: {results or 'right bytes'}")
    return Result(case, "failed", shown, "; ".join(wrong))
