"""The command ``miue evaluate``."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import Positional, arg

from miue_jax import _checks
from miue_jax._command_line import option, parse, report
from miue_jax._run_options import (
    PROG,
    TEST,
    TRAIN,
    Data,
    Run,
    directory_of,
    from_file,
    mapping,
    options_of,
    shallow,
    shown_in_tensorboard,
    source_of,
    start,
    with_fields,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Run):
    """Trains victims on a data set and reports their accuracy on clean test images.

    Attributes:
      train: what they are trained on: a protected data set, or any other (see
        `miue protect --help`).
      test: clean test images.
      train_options: of the training data.
      test_options: of the test data.
      victim: protocol of the training (see `miue list victims`).
      defense: what they do against protection (see `miue list defenses`), or
        module:function.
      seeds: one victim each.
      num_shards: shards of the data; None for one per device.
      device_invariant: make results equal to the last bit on any number of devices of
        one kind.
      stream: read images when they are needed, for data larger than memory; the results
        are the same.
      evaluate_every: epochs between tests.
      checkpoint_every: epochs between checkpoints.
      tensorboard: write event files for TensorBoard, too.
    """

    train: Annotated[Positional[str], arg(metavar="TRAIN")] = ""
    test: Annotated[Positional[str], arg(metavar="TEST")] = ""
    train_options: Annotated[Data, arg(name="train")] = TRAIN
    test_options: Annotated[Data, arg(name="test")] = TEST
    victim: str = "quick"
    defense: str = "none"
    seeds: tuple[int, ...] = (0, 1, 2)
    num_shards: int | None = None
    device_invariant: bool = False
    stream: bool = False
    evaluate_every: int = 1
    checkpoint_every: int = 1
    tensorboard: bool = False


def run(arguments: Sequence[str]) -> None:
    """Runs the command."""
    from miue_jax import defenses, victims
    from miue_jax.workflows import evaluate

    defaults, victim, defense = EvaluateOptions(), None, None
    if (file := option(arguments, "--config", None)) is not None:
        defaults, victim, defense = from_file(file, _defaults)
    name = option(arguments, "--victim", None)
    if name is not None or victim is None:
        victim = victims.preset(defaults.victim if name is None else name)
    name = option(arguments, "--defense", None)
    if name is None:
        name = defaults.defense if defense is None else defense
    defense_name, settings = defenses.parse(name)
    kind = with_fields(EvaluateOptions, victim=victim, defense=settings)
    # A defense with required settings has no default.
    given: Any = parse(
        kind,
        arguments,
        prog=f"{PROG} evaluate",
        default=kind(
            **shallow(defaults),
            victim_settings=victim,
            defense_settings=(
                tyro.MISSING_NONPROP if isinstance(settings, type) else settings
            ),
        ),
    )
    workdir = directory_of(given.workdir)
    config = evaluate.EvaluateConfig(
        train=source_of(given.train, given.train_options, "TRAIN"),
        test=source_of(given.test, given.test_options, "TEST"),
        victim=given.victim_settings,
        defense=(defense_name, given.defense_settings),
        **{
            k: getattr(given, k)
            for k in (
                *("seeds", "num_shards", "device_invariant", "stream"),
                *("evaluate_every", "checkpoint_every"),
            )
        },
    )
    start()
    with shown_in_tensorboard(workdir, given.tensorboard):
        results = evaluate.run(
            config, workdir, resume=given.resume, progress=not given.quiet
        )
    report(f"{workdir / evaluate.RESULTS}: {evaluate.describe(results)}")


def _defaults(config: Any) -> tuple[EvaluateOptions, Any, Any]:
    from miue_jax import _settings, defenses, victims
    from miue_jax.workflows.evaluate import EvaluateConfig

    plain = mapping(config, EvaluateConfig)
    victim = plain.pop("victim", "quick")
    if isinstance(victim, str):
        victim = victims.preset(victim)
    elif isinstance(victim, Mapping):
        victim = _settings.from_plain(victims.VictimConfig, victim, "victim")
    elif not isinstance(victim, victims.VictimConfig):
        raise ValueError(
            f"victim is {_checks.shown(victim)}; allowed: the name of a protocol, or "
            "settings"
        )
    for part, default in (("train", TRAIN), ("test", TEST)):
        named = options_of(plain.pop(part, ""), default)
        plain[part], plain[f"{part}_options"] = named
    defense = plain.pop("defense", "none")
    defenses.parse(defense)
    if "seeds" in plain:
        plain["seeds"] = _checks.as_tuple("seeds", plain["seeds"])
    return EvaluateOptions(**plain), victim, defense
