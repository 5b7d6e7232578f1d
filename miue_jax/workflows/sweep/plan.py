"""The settings of a sweep, and its cells in the order in which they run."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from miue_jax import _checks, _settings, data, defenses, generators, victims
from miue_jax.data import DataSource
from miue_jax.data.bucket import Place
from miue_jax.generators import GeneratorSpec
from miue_jax.train import host_data, parallel, run_directory
from miue_jax.victims import VictimConfig
from miue_jax.workflows import evaluate, protect

__all__ = ["Block", "Cell", "Row", "Sweep", "cells", "row"]

AXES = ("generators", "defenses", "victims")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a sweep: a generator, how much it protects, and how it is exported.

    Attributes:
      generator: the generator and its settings.
      export: how the perturbation becomes whole gray levels, see `budget.quantize`.
      fraction: share of the images to protect, in (0, 1]; the others stay clean. They
        are drawn at random, the same ones for every seed of the generator.
      seed: of the generator; None for the `generator_seed` of the sweep. Rows that
        differ in it alone show how much depends on the draw of the generator.

    Raises:
      ValueError: if the fraction or the seed is out of range.

    Example:
      >>> from miue_jax import generators
      >>> from miue_jax.workflows.sweep.plan import Row
      >>> Row(generator=generators.spec("one_pixel"), export="truncate").export
      'truncate'
    """

    generator: GeneratorSpec
    export: protect.Export = "round"
    fraction: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        _checks.check_number("fraction", self.fraction, "in (0, 1]")
        if self.seed is not None:
            _checks.check_seeds("seed of a row", (self.seed,))


def row(
    generator: str | Mapping[str, Any] | GeneratorSpec,
    *,
    export: protect.Export = "round",
    fraction: float = 1.0,
    seed: int | None = None,
    **changes: Any,
) -> Row:
    """Makes a row of a sweep.

    Args:
      generator: "name" or "name/preset", or what `generators.spec` takes.
      export: how the perturbation becomes whole gray levels, see `budget.quantize`.
      fraction: share of the images to protect, in (0, 1].
      seed: of the generator; None for that of the sweep.
      **changes: settings that differ from the preset's.

    Returns:
      The row.

    Raises:
      ValueError: if a name is unknown, or a setting, the fraction or the seed is not
        allowed.

    Example:
      >>> from miue_jax.workflows.sweep.plan import row
      >>> row("mi_ue/interleaved", radius=4.0).generator.config.radius
      4.0
    """
    spec = generators.spec(generator, **changes)
    return Row(generator=spec, export=export, fraction=fraction, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """A part of a sweep: all cells of some rows and columns.

    Attributes:
      generators: names of rows; None for all.
      defenses: names of columns; None for all.
      victims: names of victims; None for all.
      seeds: of the victims; None for those of the sweep.

    Example:
      >>> from miue_jax.workflows.sweep.plan import Block
      >>> Block(defenses=("none",), seeds=(0, 1, 2)).generators is None
      True
    """

    generators: tuple[str, ...] | None = None
    defenses: tuple[str, ...] | None = None
    victims: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Settings of a sweep.

    Names of generators, defenses and victims become parts of folder names: letters,
    digits and underscores. Where a sequence of specs is given in place of a mapping,
    they are named after themselves, such as ``mi_ue_interleaved`` and ``jpeg_10``.

    Attributes:
      data: the training data: a name, a path or a `DataSource`.
      test: clean test images; None for the test split of `data`.
      generators: rows by name: a `Row`, or what `generators.spec` takes; None, or the
        spec "clean", for the clean images.
      defenses: columns by name: what `defenses.create` takes.
      victims: `VictimConfig` or names of protocols, by name.
      seeds: of the victims.
      blocks: which cells run, in this order, the most informative ones first; none for
        all.
      generator_seed: of every generator whose row has none of its own.
      num_shards: shards of the data; None for one per device.
      device_invariant: whether results are equal to the last bit on any number of
        devices of one kind.
      evaluate_every: epochs between tests; the last epoch is always tested.
      data_name: what the tables call the data; None for their name.

    Raises:
      ValueError: if a name is unknown or cannot be that of a folder, a block is empty,
        or a number is out of range.

    Example:
      >>> import miue_jax as mj
      >>> sweep = mj.Sweep(
      ...     data="shapes", generators=["clean", "random_noise"], seeds=range(2)
      ... )
      >>> sorted(sweep.generators), sweep.seeds
      (['clean', 'random_noise'], (0, 1))
    """

    data: Any = "shapes"
    test: Any = None
    generators: Any = ("clean", "mi_ue/interleaved")
    defenses: Any = ("none",)
    victims: Any = ("quick",)
    seeds: Sequence[int] = (0,)
    blocks: tuple[Block, ...] = ()
    generator_seed: int = 0
    num_shards: int | None = None
    device_invariant: bool = False
    evaluate_every: int = 1
    data_name: str | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("data", _source(self.data))
        test = test_split(self.data) if self.test is None else self.test
        put("test", _source(test, split="test"))
        put("generators", _named("generators", self.generators, _row))
        put("defenses", _named("defenses", self.defenses, _defense))
        put("victims", _named("victims", self.victims, _victim))
        put("seeds", _checks.as_tuple("seeds", self.seeds))
        put("blocks", tuple(map(_block, _checks.as_tuple("blocks", self.blocks))))
        _checks.check_seeds("generator_seed", (self.generator_seed,))
        _checks.check_number("evaluate_every", self.evaluate_every, "> 0", whole=True)
        if self.num_shards is not None:
            _checks.check_number("num_shards", self.num_shards, "> 0", whole=True)
        _checks.check_flag("device_invariant", self.device_invariant)
        if self.data_name is not None:
            _checks.check_text("data_name", self.data_name)
        cells(self)

    def to_plain(self) -> dict[str, Any]:
        """All settings as JSON can hold them; `Sweep(**plain)` is equal."""
        rows = {name: _plain(row) for name, row in self.generators.items()}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _settings.to_plain({**fields, "generators": rows}, "sweep")


def _plain(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    plain = {**row.generator.to_plain(), "export": row.export}
    # As it was before rows had them, where all images are protected by one seed.
    own = {"fraction": row.fraction} if row.fraction != 1 else {}
    return plain | own | ({} if row.seed is None else {"seed": row.seed})


def _source(given: Any, split: str = "train") -> DataSource:
    if isinstance(given, DataSource):
        return given
    if isinstance(given, Mapping):
        return _settings.from_plain(DataSource, {"split": split, **given}, "data")
    found = data.source(given, split)
    if not isinstance(found, DataSource):
        # Its processes load the data themselves.
        raise ValueError("data are in memory; a sweep takes a name or path")
    return found


def _block(given: Any) -> Block:
    if isinstance(given, Mapping):
        return _settings.from_plain(Block, given, "block")
    if not isinstance(given, Block):
        raise ValueError(
            f"blocks hold {_checks.shown(given)}; allowed: Block, or its fields"
        )
    return given


def label(spec: object) -> str:
    """The name of a row or column that is given without one, made of its spec."""
    return re.sub(r"\W+", "_", str(spec)).strip("_")


def test_split(data: DataSource) -> DataSource:
    """The clean test images where none are named."""
    return DataSource(data.name, split="test", data_dir=data.data_dir)


def _named(axis: str, specs: Any, convert: Any) -> dict[str, Any]:
    if isinstance(specs, Mapping):
        return {name: convert(spec) for name, spec in specs.items()}
    found = {}
    for spec in _checks.as_tuple(axis, (specs,) if isinstance(specs, str) else specs):
        if spec is None:
            raise ValueError(f"{axis} holds None, which has no name; use a mapping")
        name = label(spec)
        if name in found:
            raise ValueError(f"{_checks.shown(spec)} is given twice in {axis}")
        found[name] = convert(spec)
    return found


def _row(given: Any) -> Row | None:
    if given is None or isinstance(given, Row):
        return given
    if isinstance(given, str) and given == "clean":
        return None
    if isinstance(given, Mapping):
        settings = dict(given)
        own = {
            name: settings.pop(name)
            for name in ("export", "fraction", "seed")
            if name in settings
        }
        generator = settings.pop("generator", None)
        return (
            row(settings, **own)
            if generator is None
            else row(generator, **own, **settings)
        )
    if isinstance(given, str):
        name, known = given.partition("/")[0], ("clean", *generators.NAMES)
        if not generators.is_own(name) and name not in known:
            raise _checks.unknown("generator", name, known)
    return row(given)


def _defense(given: Any) -> dict[str, Any]:
    return defenses.settings_of(given)


def _victim(given: Any) -> VictimConfig:
    if isinstance(given, VictimConfig):
        return given
    if isinstance(given, Mapping):
        return _settings.from_plain(VictimConfig, given, "victim")
    return victims.preset(given)


class Cell(NamedTuple):
    """One victim: names in the sweep, and the seed of its training.

    Example:
      >>> import pathlib
      >>> from miue_jax.workflows.sweep.plan import Cell
      >>> Cell("clean", "none", "quick", 0).folder(pathlib.Path("runs")).as_posix()
      'runs/cells/clean-none-quick-seed_0'
    """

    generator: str
    defense: str
    victim: str
    seed: int

    @property
    def name(self) -> str:
        """Its identity in a directory, whatever else the sweep holds."""
        return f"{self.generator}-{self.defense}-{self.victim}-seed_{self.seed}"

    def folder(self, workdir: Place) -> Place:
        """The cell's folder in the directory of the sweep."""
        return workdir / "cells" / self.name


def cells(sweep: Sweep) -> list[Cell]:
    """Lists the cells of all blocks in the order in which they run.

    In a block the seeds are outermost, then the victims, then the defenses, so that
    whole columns fill up first. A cell of several blocks comes once.

    Args:
      sweep: the settings.

    Returns:
      The cells.

    Raises:
      ValueError: if a name cannot be that of a folder, or a block is empty or names
        something that is not defined.

    Example:
      >>> from miue_jax.workflows.sweep import plan
      >>> sweep = plan.Sweep(generators=["clean", "one_pixel"], seeds=(0, 1))
      >>> [(cell.generator, cell.seed) for cell in plan.cells(sweep)]
      [('clean', 0), ('one_pixel', 0), ('clean', 1), ('one_pixel', 1)]
    """
    for axis in AXES:
        for name in getattr(sweep, axis):
            # Folders are named after them, with a dash between the parts.
            if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
                raise ValueError(
                    f"name {_checks.shown(name)} in {axis}; allowed: letters, digits "
                    "and underscores"
                )
    found: dict[Cell, None] = {}
    for number, block in enumerate(sweep.blocks or (Block(),)):
        chosen = {}
        for axis in AXES:
            known, given = getattr(sweep, axis), getattr(block, axis)
            given = known if given is None else given
            # The names of a mapping are a list, too.
            chosen[axis] = _checks.as_tuple(_of(sweep, number, axis), list(given))
            if not chosen[axis]:
                raise ValueError(
                    f"{_of(sweep, number, axis)} is empty; name at least one"
                )
            for name in chosen[axis]:
                if name not in known:
                    raise _checks.unknown(
                        f"name in {_of(sweep, number, axis)}", name, known
                    )
        seeds = sweep.seeds if block.seeds is None else block.seeds
        _checks.check_seeds(_of(sweep, number, "seeds"), seeds)
        found |= {
            Cell(generator, defense, victim, seed): None
            for seed in seeds
            for victim in chosen["victims"]
            for defense in chosen["defenses"]
            for generator in chosen["generators"]
        }
    return list(found)


def _of(sweep: Sweep, number: int, field: str) -> str:
    return f"blocks[{number}].{field}" if sweep.blocks else field


def protection(sweep: Sweep, name: str) -> protect.ProtectConfig:
    """The settings of a row's run, as `protect.run` takes them.

    Args:
      sweep: the settings.
      name: of the row.

    Returns:
      The settings.
    """
    made = sweep.generators[name]
    return protect.ProtectConfig(
        data=sweep.data,
        generator=made.generator,
        select=protect.Selection(fraction=made.fraction),
        export=made.export,
        seed=sweep.generator_seed if made.seed is None else made.seed,
        num_shards=sweep.num_shards,
        device_invariant=sweep.device_invariant,
        checkpoint_every=100,
    )


def training(sweep: Sweep, cell: Cell, train: DataSource) -> evaluate.EvaluateConfig:
    """The settings of a cell's run, as `evaluate.run` takes them.

    Args:
      sweep: the settings.
      cell: the victim.
      train: its training data, from `train_data`.

    Returns:
      The settings.
    """
    return evaluate.EvaluateConfig(
        train=train,
        test=sweep.test,
        victim=sweep.victims[cell.victim],
        defense=sweep.defenses[cell.defense],
        seeds=(cell.seed,),
        num_shards=sweep.num_shards,
        device_invariant=sweep.device_invariant,
        evaluate_every=sweep.evaluate_every,
        checkpoint_every=sweep.evaluate_every,
    )


def artifact_path(workdir: Place, name: str) -> Place:
    """The path of a row's protected data set."""
    return workdir / "protected" / name / protect.ARTIFACT


def train_data(sweep: Sweep, workdir: Place, cell: Cell) -> DataSource:
    """What a victim is trained on: the clean data, or a row's protected data set."""
    if sweep.generators[cell.generator] is None:
        return sweep.data
    path = str(artifact_path(workdir, cell.generator))
    return dataclasses.replace(sweep.data, name=path, per_class=None)


def expected(sweep: Sweep, workdir: Place, cell: Cell) -> dict[str, Any]:
    """The entries of a cell's results that depend on the settings alone."""
    config = training(sweep, cell, train_data(sweep, workdir, cell))
    return {
        "train": protect.data_settings(config.train),
        "test": protect.data_settings(config.test),
        "victim": dataclasses.asdict(config.victim),
        "defense": defenses.settings_of(config.defense),
        "seeds": list(config.seeds),
        "evaluate_every": config.evaluate_every,
        **protect.mode(config.device_invariant),
        **evaluate.code_of(config),
    }


def check(sweep: Sweep, planned: Iterable[Cell]) -> dict[str, Any]:
    """Finds what is wrong with any cell before the first of them runs.

    Args:
      sweep: the settings.
      planned: all cells.

    Returns:
      What all cells have in common, as JSON; the rest is checked cell by cell. All
      processes of a run must call it.

    Raises:
      ValueError: if an input is bad.
    """
    planned = list(planned)
    clean, test = parallel.in_all(
        lambda: [host_data.load(x, stream=False) for x in (sweep.data, sweep.test)]
    )
    with parallel.together():
        for name in dict.fromkeys(cell.generator for cell in planned):
            if sweep.generators[name] is not None:
                protect.prepare(protection(sweep, name), clean)
        for pair in dict.fromkeys(cell[1:3] for cell in planned):
            some = next(cell for cell in planned if cell[1:3] == pair)
            evaluate.prepare(training(sweep, some, sweep.data), clean, test)
    mesh = parallel.data_mesh()
    num_shards = parallel.resolve_num_shards(sweep.num_shards, mesh)
    settings = {
        "data": protect.data_settings(sweep.data),
        "test": protect.data_settings(sweep.test),
        "generator_seed": sweep.generator_seed,
        **protect.mode(sweep.device_invariant),
        "num_shards": num_shards,
    }
    run_directory.check_agreement(settings)
    found = [
        host_data.read(x, num_shards, mesh, keep=False).fingerprint
        for x in (clean, test)
    ]
    return {**settings, "fingerprints": found}
