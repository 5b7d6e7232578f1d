"""The command `miue`: its help, its configuration files, and bad input in one line."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import miue_jax
from miue_jax import _command_line, cli, generators, victims
from miue_jax.budget import Budget
from miue_jax.data import artifact, load
from miue_jax.workflows import demo, evaluate, protect

COMMANDS = tuple(cli._COMMANDS)
RUNS = ("protect", "evaluate", "sweep", "measure", "demo")


# Help.


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_the_help_names_every_command(miue, arguments):
    status, output, errors = miue(*arguments)
    assert (status, errors) == (0, "")
    assert output.startswith("usage: miue COMMAND")
    for name in (*COMMANDS, "completion"):
        assert f"\n  {name} " in output


@pytest.mark.parametrize("name", [*COMMANDS, "completion"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help(miue, name, flag):
    status, output, errors = miue(name, flag)
    assert (status, errors) == (0, "")
    assert output.startswith(f"usage: miue {name}")
    if name in RUNS:
        assert "--workdir" in output
    if name in RUNS[:4]:
        assert "--config" in output


def test_the_help_shows_the_settings_of_what_was_chosen(miue):
    _, output, _ = miue("protect", "--generator", "one_pixel", "--help")
    assert "--generator.pixels" in output
    assert "--generator.temperature" not in output
    _, output, _ = miue("evaluate", "--defense=cutout-4", "--victim", "em", "--help")
    assert "--defense.size" in output
    assert "(default: 4)" in output
    assert "(default: 5.0)" in output  # of --victim.clip-norm


def test_the_version_is_that_of_the_package(miue):
    assert miue("--version") == (0, f"{miue_jax.__version__}\n", "")


def test_what_can_be_named_is_listed(miue):
    status, output, errors = miue("list", "--json")
    assert (status, errors) == (0, "")
    found = json.loads(output)
    assert found["generators"] == list(generators.NAMES)
    assert found["victims"] == list(victims.NAMES)
    assert "mi_ue/interleaved" in found["presets"]
    assert "jpeg-<quality>" in found["defenses"]
    assert {"models", "data", "estimators"} < found.keys()
    for kind, names in found.items():
        lines = miue("list", kind)[1].splitlines()
        assert [line.split("  ")[0] for line in lines] == names
    lines = miue("list")[1].splitlines()
    assert len(lines) == sum(map(len, found.values())) + len(found)


def test_defenses_are_listed_with_their_settings(miue):
    lines = miue("list", "defenses")[1].splitlines()
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert shown["cutout-<size>"] == ["size=16"]
    assert shown["gaussian_noise-<sigma>"] == ["sigma=8.0"]
    assert shown["jpeg-<quality>"] == ["quality"]
    assert shown["none"] == []


def test_a_narrow_terminal_is_no_dead_end(miue, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    status, _, errors = miue("list", "--jsn")
    assert (status, errors.count("\n")) == (2, 1)
    assert miue("list", "--help")[0] == 0


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_the_commands(miue, shell):
    status, output, errors = miue("completion", shell)
    assert (status, errors) == (0, "")
    for name in COMMANDS:
        assert name in output


def test_a_reader_who_has_seen_enough_ends_it_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "miue_jax", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (141, b"")


# Bad input.


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory with data, a protected data set and a folder of somebody else's."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8, 3), np.uint8)
    labels = np.arange(24) % 2
    data = tmp_path / "data.npz"
    np.savez(data, x_train=images, y_train=labels, x_test=images, y_test=labels)
    clean = load(data)
    delta = np.full(clean.images.shape, 2 / 255, np.float32)
    made = artifact.build(clean, delta, budget=Budget("linf", 8), metadata={})
    artifact.save(tmp_path / "protected.npz", made, delta=delta)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "letter.txt").write_text("mine")
    (tmp_path / "results.json").write_text('{"mine": 1}')
    (tmp_path / "text.md").write_bytes(b"\xc6\xc6")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _content(root: pathlib.Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def _assert_refused(result: tuple[int, str, str], name: str, message: str) -> None:
    status, output, errors = result
    assert (status, output) == (2, ""), errors
    assert errors.startswith(f"miue {name}: "), errors
    assert message in errors, errors
    assert len(errors.splitlines()) == 1, errors


# For each command arguments and what is said; `W` stands for a new directory.
_W = "--workdir=new"
_LINEAR = ["--victim.model=linear", "--victim.epochs=1", "--seeds=0"]
BAD = {
    "protect": [
        (["data.npz"], "--workdir is missing: name a directory for the run"),
        (["data.npz", "--workdir="], "--workdir is missing"),
        (["data.npz", "--workdir"], "Missing value for argument '--workdir'"),
        (["data.npz", "--workdir=foreign"], "foreign is not empty and holds no run"),
        (["data.npz", "--workdir=data.npz"], "data.npz is not empty and holds no run"),
        ([_W, "none.npz"], "none.npz: no such file or folder"),
        ([_W, "shapse"], "unknown data set 'shapse'; did you mean 'shapes'"),
        ([_W, "no_module:f"], "'no_module:f' cannot be imported: No module named"),
        # Two places are a folder of pictures and one to create.
        ([_W, "data.npz", "more"], "data.npz: no pictures in it"),
        ([_W, "--export=round", "data.npz", "more"], "unexpected argument 'more'"),
        ([_W, "--generator=mi_eu"], "unknown generator 'mi_eu'; did you mean 'mi_ue'"),
        ([_W, "--generator=mi_ue/papr"], "mi_ue preset 'papr'; did you mean 'paper'"),
        ([_W], "DATA is missing: name a data set"),
        ([_W, "--generator", ""], "unknown generator ''"),
        ([_W, "--generator=no_module:f"], "generator 'no_module:f' cannot be imported"),
        (
            [_W, "--generator.tempreature=0.2"],
            "unknown option '--generator.tempreature'; did you mean "
            "'--generator.temperature'",
        ),
        (
            [_W, "--generator=random_noise/uniform", "--generator.temperature=3"],
            "unknown option '--generator.temperature'",
        ),
        ([_W, "--generator.radius=wide"], "--generator.radius: could not convert"),
        ([_W, "--generator.radius=0"], "radius is 0.0; allowed: whole gray levels"),
        ([_W, "--generator.epochs", "-3"], "epochs is -3; allowed: whole numbers > 0"),
        ([_W, "--dta.per-class=3"], "did you mean '--data.per-class'"),
        ([_W, "data.npz", "--data.per-class=0"], "per_class is 0"),
        (
            [_W, "data.npz", "--data.split=tets"],
            "split is 'tets'; did you mean 'test'",
        ),
        ([_W, "data.npz", "--classes", "dog"], "'dog'"),
        ([_W, "data.npz", "--fraction=2"], "fraction is 2.0"),
        ([_W, "--export=rund"], "unknown --export 'rund'; did you mean 'round'"),
        ([_W, "shapes", "--seed=99999999999999999999"], "seed holds 9999"),
        ([_W, "--seed", "1", "--seed=2"], "--seed is given twice"),
        ([_W, "--num-shards=0", "data.npz"], "num_shards is 0"),
        ([_W, "--num-shards=few"], "--num-shards: cannot parse 'few'; allowed: {None}"),
        ([_W, "--data.per-class=1", "--data.per_class=2"], "per-class is given twice"),
        ([_W, "--config=none.py"], "none.py: no such configuration file"),
        ([_W, "--config="], "no such configuration file"),
        ([_W, "--radius=8"], "unknown option '--radius'"),
        ([_W, "-x"], "unknown option '-x'"),
    ],
    "protect-folder": [
        ([], "missing: IN, OUT"),
        (["foreign"], "missing: OUT"),
        (["", "out"], "IN is empty: name a folder of pictures"),
        (["foreign", ""], "OUT is empty: name a folder to create"),
        (["none", "out"], "none: no such file or folder"),
        (["foreign", "out"], "foreign: no pictures in it"),
        (["foreign", "out", "more"], "unexpected argument 'more'"),
        (["foreign", "foreign"], "must not be the output"),
        (["foreign", "foreign/out"], "must not lie in the pictures (foreign)"),
        (["foreign", "data.npz"], "data.npz: exists and is not a folder"),
        (["foreign", "data.npz/out"], "data.npz is not a folder"),
        (["foreign", "out", "--workdir="], "--workdir is missing"),
        (["foreign", "out", "--workdir=out/in"], "must not lie in the output"),
        (["foreign", "out", "--workdir=foreign/in"], "the work folder must not"),
        (["foreign", "out", "--strength=0"], "strength is 0; allowed: whole gray"),
        (["foreign", "out", "--strength=33"], "strength is 33; allowed: whole gray"),
        (["foreign", "out", "--strength=2.5"], "--strength: invalid literal for int"),
        (["foreign", "out", "--effort=fats"], "'fats'; did you mean 'fast'"),
        (["foreign", "out", "--format=gif"], "--format"),
        (["foreign", "out", "--seed=-1"], "seed holds -1"),
        (["foreign", "out", "--protector=none"], "none"),
        (["foreign", "out", "--protector=text.md"], "text.md: is no protector ("),
        (["foreign", "out", "--protector=foreign"], "foreign: is no file"),
        (["foreign", "out", "--strenght=3"], "did you mean '--strength'"),
    ],
    "fit-protector": [
        (["shapes"], "missing: --output"),
        (["--output=new"], "missing: DATA"),
        (["shapes", "--output="], "--output is empty: name a file"),
        (["", "--output=new"], "DATA is missing"),
        (["shapse", "--output=new"], "did you mean 'shapes'"),
        (["foreign", "--output=new"], "foreign: no pictures in it"),
        (["data.npz", "--output=new"], "is 8x8: only pictures of at least 16 pixels"),
        (["data.npz", "--output=data.npz"], "is read by this command"),
        (["shapes", "--output=foreign"], "foreign: is a folder"),
        (["shapes", "--output=none/new"], "there is no folder none"),
        (["shapes", "--output=new", "--strength=0"], "strength is 0.0"),
        (["shapes", "--output=new", "--size=8"], "size is 8; allowed: 16 to 1024"),
        (["shapes", "--output=new", "--num-codes=0"], "num_codes is 0"),
        (["shapes", "--output=new", "--fit.steps=0"], "steps is 0"),
        (["shapes", "--output=new", "--fit.model=resnt10"], "did you mean 'resnet10'"),
        (["shapes", "--output=new", "--fit.seed=-1"], "seed holds -1"),
        (["shapes", "--output=new", "--radius=8"], "unknown option '--radius'"),
    ],
    "evaluate": [
        (["data.npz", "data.npz"], "--workdir is missing"),
        (["--workdir="], "--workdir is missing"),
        (
            ["data.npz", "data.npz", *_LINEAR, "--workdir=foreign"],
            "foreign is not empty and holds no run",
        ),
        ([_W, "none.npz", "data.npz"], "none.npz: no such file"),
        ([_W, "data.npz", "none.npz"], "none.npz: no such file"),
        ([_W, "data.npz", "shapes"], "different classes"),
        ([_W, "data.npz"], "TEST is missing"),
        ([_W], "TRAIN is missing"),
        ([_W, "protected.npz", "protected.npz"], "has only a 'train' split"),
        ([_W, "data.npz", "data.npz", "more"], "unexpected argument 'more'"),
        ([_W, "--victim=quik"], "unknown protocol 'quik'; did you mean 'quick'"),
        ([_W, "--victim="], "unknown protocol ''"),
        ([_W, "--victim.epoch=3"], "did you mean '--victim.epochs'"),
        ([_W, "--victim.epochs=few"], "--victim.epochs: invalid literal for int()"),
        (
            [_W, "data.npz", "data.npz", "--victim.model=resnt18"],
            "unknown model 'resnt18'; did you mean 'resnet18'",
        ),
        (
            [_W, "data.npz", "data.npz", "--victim.model=no_module:f"],
            "'no_module:f' cannot be imported",
        ),
        ([_W, "--defense=cutuot-4"], "unknown defense 'cutuot-4'; did you mean 'cut"),
        ([_W, "--defense="], "unknown defense ''"),
        ([_W, "--defense=jpeg"], "missing: --defense.quality INT"),
        ([_W, "--defense=jpeg-x"], "'x' is not a number"),
        ([_W, "--defense=grayscale-3"], "takes no number"),
        ([_W, "--defense=no_module:f"], "defense 'no_module:f' cannot be imported"),
        ([_W, "--defense=cutout", "--defense.siz=3"], "did you mean '--defense.size'"),
        ([_W, "--seeds", "a"], "--seeds: cannot parse 'a'"),
        ([_W, "--seeds", "0.5"], "--seeds: cannot parse '0.5'"),
        ([_W, "data.npz", "data.npz", "--seeds"], "seeds is empty"),
        ([_W, "data.npz", "data.npz", "--seeds", "1", "1"], "they must differ"),
        ([_W, "--seeds=0", "--seeds=1"], "--seeds is given twice"),
        ([_W, "data.npz", "data.npz", "--num-shards=-1"], "num_shards is -1"),
        ([_W, "--evaluate-every=x"], "--evaluate-every: invalid literal"),
        ([_W, "--config=none.py"], "none.py: no such configuration file"),
    ],
    "sweep": [
        (["data.npz"], "--workdir is missing"),
        (["data.npz", "--workdir="], "--workdir is missing"),
        (
            ["data.npz", "--generators", "clean", "--workdir=foreign"],
            "foreign is not empty and holds no run",
        ),
        ([_W, "none.npz"], "none.npz: no such file"),
        ([_W, "protected.npz"], "has only a 'train' split"),
        (
            [_W, "shapes", "--test=shapse", "--generators", "clean"],
            "unknown data set 'shapse'",
        ),
        (
            [_W, "shapes", "--generators", "clean", "radnom_noise"],
            "did you mean 'random_noise'",
        ),
        ([_W, "shapes", "--generators"], "generators is empty"),
        ([_W, "shapes", "--generators", "clean", "clean"], "'clean' is given twice"),
        (
            [_W, "shapes", "--generators", "no_module:f"],
            "'no_module:f' cannot be imported",
        ),
        (
            [_W, "shapes", "--defenses", "nnoe"],
            "unknown defense 'nnoe'; did you mean 'none'",
        ),
        (
            [_W, "shapes", "--defenses", "jpeg"],
            "needs its quality, as in 'jpeg-<quality>'",
        ),
        (
            [_W, "shapes", "--victims", "quik"],
            "unknown protocol 'quik'; did you mean 'quick'",
        ),
        ([_W, "shapes", "--seeds", "0", "0"], "they must differ"),
        ([_W, "shapes", "--generatros", "clean"], "did you mean '--generators'"),
        ([_W, "shapes", "--devices=many"], "--devices: cannot parse 'many'"),
        ([_W, "data.npz", "--devices=0"], "devices is 0; allowed: from 1 to"),
        (
            [_W, "shapes", "--generators", "clean", "--generators=clean"],
            "is given twice",
        ),
        ([_W, "data.npz", "more"], "unexpected argument 'more'"),
        ([_W, "--config=none.py"], "none.py: no such configuration file"),
    ],
    "measure": [
        (["runs"], "--workdir is missing"),
        (["runs", "--workdir="], "--workdir is missing"),
        ([_W], "victims is empty; name at least one"),
        ([_W, "none"], "there is no run directory none"),
        ([_W, "foreign"], "foreign"),
        ([_W, "none", "--estimators.neighbrs=9"], "mean '--estimators.neighbors'"),
        (
            [_W, "none", "--estimators.neighbors=90"],
            "neighbors is 90; it must be below",
        ),
        ([_W, "none", "--per-class=few"], "--per-class: invalid literal for int()"),
        ([_W, "none", "--per-class=1"], "per_class is 1; at least 12"),
        ([_W, "none", "--seed=0", "--seed=1"], "--seed is given twice"),
        ([_W, "none", "--config=none.py"], "none.py: no such configuration file"),
    ],
    "detect": [
        ([], "missing: PROTECTED, DATA"),
        (["protected.npz"], "missing: DATA"),
        (["none.npz", "data.npz"], "none.npz: no such file"),
        (["data.npz", "data.npz"], "not a protected data set"),
        (["protected.npz", "shapse"], "unknown data set 'shapse'; did you mean"),
        (["protected.npz", "no_module:f"], "'no_module:f' cannot be imported"),
        (["protected.npz", "shapes"], "made from another source"),
        (["protected.npz", "data.npz", "--modles=linear"], "did you mean '--models'"),
        (["protected.npz", "data.npz", "--models", "mlp4"], "did you mean 'mlp"),
        (["protected.npz", "data.npz", "--width=x"], "--width: cannot parse 'x'"),
        (["protected.npz", "data.npz", "--json=no/found.json"], "no folder"),
    ],
    "export": [
        ([], "missing: PROTECTED"),
        (["protected.npz"], "name what to write: png (a folder) or npy (a file)"),
        (["none.npz", "--png=png"], "none.npz: no such file"),
        (["data.npz", "--png=png"], "not a protected data set"),
        (["protected.npz", "--png=foreign"], "foreign: exists and is not an empty"),
        (["protected.npz", "--npy=delta.txt"], "end in .npy"),
        (["protected.npz", "--npy=no/delta.npy"], "no folder"),
        (
            ["protected.npz", "--pgn=png"],
            "unknown option '--pgn'; did you mean '--png'",
        ),
        (["protected.npz", "--png=a", "--png=b"], "--png is given twice"),
    ],
    "import": [
        (["delta.npy", "data.npz"], "missing: --output STR"),
        (["none.npy", "data.npz", "--output=o.npz"], "none.npy: no such file"),
        (["protected.delta.npy", "shapse", "--output=o.npz"], "unknown data set"),
        (
            ["protected.delta.npy", "no_module:f", "--output=o.npz"],
            "cannot be imported",
        ),
        (["protected.delta.npy", "data.npz", "--output=o.zip"], "must end in .npz"),
        (
            ["protected.delta.npy", "data.npz", "--output=o.npz", "--norm=l3"],
            "unknown --norm 'l3'; did you mean 'l2'",
        ),
        (
            ["protected.delta.npy", "data.npz", "--output=o.npz", "--radius=0"],
            "radius is in gray levels, from 1 to 255, got 0.0",
        ),
        (
            ["protected.delta.npy", "data.npz", "--output=o.npz", "--radius=1"],
            "2",  # gray levels, which the perturbation has
        ),
        (["data.npz", "data.npz", "--output=o.npz"], "exactly one array of four axes"),
        (["a", "data.npz", "--output=o.npz", "--ouput=x"], "did you mean '--output'"),
    ],
    "table": [
        ([], "missing: PATH"),
        (["none.json"], "none.json"),
        (["none.md"], "none.md"),
        (["foreign"], "results.json"),
        (["results.json"], "none of the runs that have a table"),
        (["text.md"], "text.md"),
        (
            ["results.json", "--chekc"],
            "unknown option '--chekc'; did you mean '--check'",
        ),
    ],
    "demo": [
        (["--workdir="], "--workdir is missing"),
        (["--workdir"], "Missing value for argument '--workdir'"),
        (["--workdir=foreign"], "foreign is not empty and holds no run"),
        (["--workdir=data.npz"], "data.npz is not empty and holds no run"),
        (["--wrkdir=new"], "unknown option '--wrkdir'; did you mean '--workdir'"),
        (["--workdir=a", "--workdir=b"], "--workdir is given twice"),
        (["new"], "unexpected argument 'new'"),
    ],
    "benchmark": [
        (["--cases", "mi_ue_129"], "unknown case 'mi_ue_129'; did you mean 'mi_ue_128"),
        (["--cases", "ssim_512", "ssim_512"], "ssim_512 is named twice"),
        (["--repetitions=0"], "repetitions is 0"),
        (["--threads=0"], "threads is 0"),
        (["--threads=10000"], "threads is 10000; allowed: at most"),
        (["--size=smal"], "unknown --size 'smal'; did you mean 'small'"),
        (["--against=none.whl"], "none.whl: no such wheel"),
        (["--against=text.md"], "text.md: is no wheel"),
        (["--against=data.npz"], "data.npz: is no wheel of miue_jax"),
        (["--output=nowhere/out.json"], "there is no folder nowhere"),
        (["--output=foreign"], "foreign: is a folder"),
        (["--output=results.json"], "results.json is damaged: it has no settings"),
        (["--output="], "--output is empty: name a file"),
        (["--output=out.txt"], "output is out.txt; allowed: names that end with .json"),
        (["--output=s3://bucket/out.json"], "output is s3://bucket/out.json; allowed"),
        (["--against="], "against: no wheel"),
        (["--repetition=3"], "did you mean '--repetitions'"),
    ],
    "list": [
        (["generatros"], "'generatros'; did you mean 'generators'"),
        (["generators", "data"], "unexpected argument 'data'"),
        (["--jsn"], "unknown option '--jsn'; did you mean '--json'"),
        (["--json", "--json"], "--json is given twice"),
        (["--kind=data"], "unknown option '--kind'"),
    ],
    "completion": [([], "name a shell"), (["fish"], "name a shell: bash or zsh")],
    "protec": [([], "unknown command 'protec'; did you mean 'protect'")],
}
CASES = [(name, *case) for name, cases in BAD.items() for case in cases]


@pytest.mark.parametrize(
    ("name", "arguments", "message"), CASES, ids=lambda x: str(x)[:40]
)
def test_bad_input_is_one_line_and_status_two(miue, site, name, arguments, message):
    before = _content(site)
    _assert_refused(miue(name, *arguments), name, message)
    assert _content(site) == before


def test_every_command_has_its_cases():
    assert set(COMMANDS) <= BAD.keys()
    assert all(len(BAD[name]) >= 5 for name in COMMANDS)


def test_words_are_not_broken_where_the_terminal_is_narrow(miue, site, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    long = "x" * 90
    result = miue("protect", f"--export={long}", "--workdir=new")
    _assert_refused(result, "protect", f"unknown --export '{long}'; allowed: drop_neg")
    assert os.environ["COLUMNS"] == "40"


def test_a_measurement_is_not_written_beside_what_is_there(miue, site):
    arguments = ["evaluate", "data.npz", "data.npz", *_LINEAR, "--quiet"]
    assert miue(*arguments, "--workdir=victim")[0] == 0
    before = _content(site)
    result = miue(
        *("measure", "victim", "--data=data.npz", "--per-class=12", "--quiet"),
        *("--protected=protected.npz", "--workdir=foreign"),
    )
    _assert_refused(result, "measure", "foreign is not empty and holds no run")
    assert _content(site) == before


# Configuration files.

_FIELDS = {
    "protect": """{
        "data": {"name": "data.npz", "per_class": 6},
        "generator": {"name": "random_noise", "radius": 4.0},
        "select": {"classes": ["1"], "fraction": 0.5},
        "seed": 3,
    }""",
    "evaluate": """{
        "train": "protected.npz",
        "test": {"name": "data.npz", "split": "test"},
        "victim": {"model": "linear", "epochs": 1},
        "defense": {"name": "cutout", "size": 4},
        "seeds": [3],
    }""",
    "sweep": """{
        "data": "data.npz",
        "generators": {"clean": None, "noise": {"name": "random_noise", "radius": 4.0}},
        "defenses": {"none": "none", "hole": "cutout-4"},
        "victims": {"small": {"model": "linear", "epochs": 1}},
        "blocks": [{"defenses": ["none"]}, {"generators": ["noise"]}],
    }""",
}
_DATACLASSES = {
    "protect": """
from miue_jax import generators
from miue_jax.data import DataSource
from miue_jax.workflows.protect import ProtectConfig, Selection

def get_config(radius="4"):
    return ProtectConfig(
        data=DataSource("data.npz", per_class=6),
        generator=generators.spec("random_noise", radius=float(radius)),
        select=Selection(classes=("1",), fraction=0.5),
        seed=3,
    )
""",
    "evaluate": """
from miue_jax import victims
from miue_jax.data import DataSource
from miue_jax.workflows.evaluate import EvaluateConfig

def get_config():
    return EvaluateConfig(
        train=DataSource("protected.npz"),
        test=DataSource("data.npz", split="test"),
        victim=victims.VictimConfig(model="linear", epochs=1),
        defense="cutout-4",
        seeds=(3,),
    )
""",
    "sweep": """
import miue_jax as mj
from miue_jax.workflows.sweep.plan import Block, row

def get_config():
    return mj.Sweep(
        data="data.npz",
        generators={"clean": None, "noise": row("random_noise", radius=4.0)},
        defenses={"none": "none", "hole": "cutout-4"},
        victims={"small": mj.victims.VictimConfig(model="linear", epochs=1)},
        blocks=(Block(defenses=("none",)), Block(generators=("noise",))),
    )
""",
}


def _source(name: str, form: str) -> str:
    if form == "dataclass":
        return _DATACLASSES[name]
    if form == "mapping":
        return f"def get_config():\n    return {_FIELDS[name]}\n"
    return (
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict({_FIELDS[name]})\n"
    )


def _results(name: str, workdir: pathlib.Path) -> dict:
    if name == "protect":
        return artifact.load(workdir / protect.ARTIFACT).metadata
    return json.loads((workdir / evaluate.RESULTS).read_text())


@pytest.mark.parametrize("form", ["dataclass", "mapping", "ml_collections"])
@pytest.mark.parametrize("name", ["protect", "evaluate", "sweep"])
def test_a_configuration_file_has_the_settings_and_options_override_them(
    miue, site, name, form
):
    (site / "mine.py").write_text(_source(name, form))
    arguments = [name, "--config", "mine.py", "--quiet"]
    status, _, errors = miue(*arguments, "--workdir=run")
    assert status == 0, errors
    found = _results(name, site / "run")
    if name == "protect":
        assert found["generator"]["radius"] == 4.0
        assert found["select"] == {"classes": ["1"], "fraction": 0.5, "seed": 0}
        assert found["seed"] == 3
        assert found["data"]["per_class"] == 6
        assert found["protected_images"] == 3
        changes = ["--seed=5", "--generator.radius=2", "--data.per-class=4"]
    elif name == "evaluate":
        assert found["victim"]["model"] == "linear"
        assert found["defense"] == {"name": "cutout", "size": 4}
        assert found["seeds"] == [3]
        changes = [
            "--seeds",
            "0",
            "1",
            "--victim.learning-rate=0.5",
            "--defense.size=2",
        ]
    else:
        assert (found["done"], found["planned"]) == (3, 3)
        assert found["defenses"]["hole"] == {"name": "cutout", "size": 4}
        assert found["protected"]["noise"]["radius"] == 4.0
        changes = ["--generators", "noise", "random_noise", "--seeds=1"]
    status, _, errors = miue(*arguments, "--workdir=changed", *changes)
    assert status == 0, errors
    found = _results(name, site / "changed")
    if name == "protect":
        assert found["generator"]["radius"] == 2.0
        assert found["seed"] == 5
        assert found["data"]["per_class"] == 4
        assert found["select"]["classes"] == ["1"]
        changes = ["--generator=one_pixel", "--generator.pixels=2"]
    elif name == "evaluate":
        assert found["victim"]["learning_rate"] == 0.5
        assert found["victim"]["model"] == "linear"
        assert found["defense"] == {"name": "cutout", "size": 2}
        assert found["seeds"] == [0, 1]
        changes = ["--victim=em", "--defense=none", "--victim.epochs=1"]
        changes.append("--victim.model=linear")
    else:
        # What is not of the file is taken by its name; all of them in every column.
        assert found["generators"] == ["noise", "random_noise"]
        assert (found["done"], found["planned"]) == (4, 4)
        assert found["protected"]["random_noise"]["radius"] == 8.0
        return
    status, _, errors = miue(*arguments, "--workdir=another", *changes)
    assert status == 0, errors
    found = _results(name, site / "another")
    if name == "protect":
        assert found["generator"] == generators.spec("one_pixel", pixels=2).to_plain()
    else:
        assert found["victim"]["clip_norm"] == 5.0
        assert found["defense"] == {"name": "none"}


def test_a_sweep_may_be_device_invariant_in_all_its_runs(miue, site):
    (site / "mine.py").write_text(_source("sweep", "mapping"))
    arguments = ["sweep", "--config", "mine.py", "--quiet", "--workdir=run"]
    status, _, errors = miue(*arguments, "--device-invariant")
    assert status == 0, errors
    configs = [json.loads(p.read_text()) for p in (site / "run").rglob("config.json")]
    assert len(configs) > 4  # the sweep's, a protection's and three victims'
    assert all(config["device_invariant"] is True for config in configs)
    status, _, errors = miue(*arguments)
    assert status == 2
    assert "device_invariant is True there and not set here" in errors


def test_a_configuration_file_may_take_an_argument(miue, site):
    (site / "mine.py").write_text(_source("protect", "dataclass"))
    arguments = ["protect", "--config=mine.py:7", "--workdir=run", "--quiet"]
    assert miue(*arguments)[0] == 0
    assert _results("protect", site / "run")["generator"]["radius"] == 7.0


BROKEN = {
    "syntax": ("def get_config(:\n", "mine.py: SyntaxError: invalid syntax"),
    "import": ("import no_such_module\n", "mine.py: ModuleNotFoundError: No module"),
    "nothing": ("def get_config():\n    return None\n", "get_config returned None"),
    "number": (
        "def get_config():\n    return 5\n",
        "or a mapping of its fields, got 5",
    ),
    "no function": ("x = 1\n", "mine.py: it has no function get_config"),
    "error": ("def get_config():\n    return 1 / 0\n", "ZeroDivisionError: division"),
    "exit": ("raise SystemExit(3)\n", "mine.py: SystemExit: 3"),
    "base": (
        "class E(BaseException):\n    pass\n\ndef get_config():\n    raise E('b')\n",
        "mine.py: E: b (mine.py, line 5)",
    ),
    "conversion": (
        "class C:\n    def to_dict(self):\n        raise KeyError('x')\n\n"
        "def get_config():\n    return C()\n",
        "mine.py: KeyError: 'x' (mine.py, line 3)",
    ),
    "assertion": ("assert False, 'no'\n", "mine.py: AssertionError: no (mine.py, line"),
    "argument": (
        "def get_config(a):\n    return {}\n",
        "mine.py: TypeError: get_config",
    ),
    "key": (
        "def get_config():\n    return {'sede': 3}\n",
        "mine.py: unknown setting 'sede'",
    ),
}
BROKEN_VALUES = {
    "protect": {
        "{'data': 5}": "data are 5; allowed: a name, a path",
        "{'data': {'nme': 'x'}}": "unknown setting of data 'nme'",
        "{'select': 5}": "select is 5; it must be a mapping",
        "{'data': {'nam': 'x'}}": "did you mean 'name'",
        "{'select': {'fracton': 1}}": "did you mean 'fraction'",
        "{'select': {'classes': 5}}": "classes is 5; it must be a list",
        "{'select': {'classes': 'cat'}}": "classes is 'cat'; it must be a list",
        "{'generator': {'name': 'mi_ue', 'schedule': 'altern'}}": (
            "did you mean 'alternating'"
        ),
        "{'generator': 5}": "unknown generator '5'",
        "{'generator': {'radius': 4}}": "unknown generator None",
        "{'generator': {'name': 'random_noise', 'radius': 'x'}}": "radius is 'x'",
        "{'generator': {'name': 'random_noise', 'radus': 4}}": "did you mean 'radius'",
        "{'data': 'shapes', 'seed': 'x'}": "seed holds 'x'",
        "{'data': 'shapes', 'num_shards': 'x'}": "num_shards is 'x'",
        "{'data': 'shapes', 'device_invariant': 'x'}": "device_invariant is 'x'",
        "{'data': 'shapes', 'export': 'rund'}": "did you mean 'round'",
    },
    "evaluate": {
        "{'train': 5}": "data are 5; allowed: a name, a path",
        "{'victim': 5}": "victim is 5; allowed: the name of a protocol",
        "{'victim': {'model': ['a']}}": "victim model is ['a']; it must be a string",
        "{'victim': 'quik'}": "did you mean 'quick'",
        "{'victim': {'epoch': 3}}": "did you mean 'epochs'",
        "{'defense': 5}": "defense is 5; allowed: a name",
        "{'defense': None}": "defense is None; allowed: a name",
        "{'defense': ('jpeg', 5)}": "defense is ('jpeg', 5); allowed: a name",
        "{'defense': {'name': 'jpeg', 'qualty': 5}}": "did you mean 'quality'",
        "{'defense': 'cutuot'}": "did you mean 'cutout'",
        "{'seeds': 5}": "seeds is 5; it must be a list",
        "{'seeds': {0: 1}}": "seeds is {0: 1}; it must be a list",
        "{'train': 'shapes', 'test': 'shapes', 'seeds': ['x']}": "seeds holds 'x'",
        "{'train': 'shapes', 'test': 'shapes', 'device_invariant': 5}": (
            "device_invariant is 5"
        ),
    },
    "sweep": {
        "{'data': 5}": "mine.py: ",
        "{'seeds': 5}": "seeds is 5; it must be a list",
        "{'generators': None}": "generators is None; it must be a list",
        "{'generators': [None]}": "generators holds None, which has no name",
        "{'generators': ['claen']}": "did you mean 'clean'",
        "{'generators': {3: None}}": "name 3 in generators",
        "{'data_name': 5}": "data_name is 5; it must be a string",
        "{'blocks': 5}": "blocks is 5; it must be a list",
        "{'generators': ['radnom_noise']}": "did you mean 'random_noise'",
        "{'generators': {'a-b': None}}": "name 'a-b' in generators",
        "{'defenses': 5}": "defenses is 5; it must be a list",
        "{'victims': {'a': {'epoch': 3}}}": "did you mean 'epochs'",
        "{'blocks': [5]}": "blocks hold 5",
        "{'blocks': [{'seds': [1]}]}": "did you mean 'seeds'",
        "{'blocks': [{'generators': ['none']}]}": "blocks[0].generators 'none'",
    },
    "measure": {
        "{'data': 5}": "data are a int; allowed: a name or path",
        "{'victims': 5}": "victims is 5; it must be a list",
        "{'victims': [5]}": "run is 5; it must be a string",
        "{'layers': 'features'}": "layers is 'features'; it must be a list",
        "{'noise_variances': 5}": "noise_variances is 5; it must be a list",
        "{'protected': 5}": "protected is 5; it must be a string",
        "{'estimators': 5}": "estimators are 5; allowed: an EstimatorConfig",
        "{'victim': 5}": "did you mean 'victims'",
        "{'victims': {'a': {'run': 5}}}": "run is 5; it must be a string",
    },
}


@pytest.mark.parametrize("name", ["protect", "evaluate", "sweep", "measure"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_configuration_file_is_one_line(miue, site, name, case):
    source, message = BROKEN[case]
    (site / "mine.py").write_text(source)
    before = _content(site)
    result = miue(name, "--config", "mine.py", "--workdir=run")
    _assert_refused(result, name, message)
    assert "mine.py" in result[2]
    assert _content(site) == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [(n, v, m) for n, values in BROKEN_VALUES.items() for v, m in values.items()],
)
def test_a_bad_value_of_a_configuration_file_is_one_line(
    miue, site, name, value, message
):
    (site / "mine.py").write_text(f"def get_config():\n    return {value}\n")
    before = _content(site)
    result = miue(name, "--config", "mine.py", "--workdir=run")
    _assert_refused(result, name, message)
    assert _content(site) == before


# The rest of the command line.


def test_compiled_programs_are_kept_unless_there_is_no_home(monkeypatch, tmp_path):
    option = "jax_compilation_cache_dir"
    before = jax.config.values[option]
    try:
        _command_line.keep_compiled()
        assert jax.config.values[option] == before, "JAX was told where already"
        jax.config.update(option, None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        _command_line.keep_compiled()
        assert jax.config.values[option] == f"{tmp_path}/miue_jax"
        jax.config.update(option, None)
        monkeypatch.delenv("XDG_CACHE_HOME")

        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(pathlib.Path, "home", no_home)
        _command_line.keep_compiled()
        assert jax.config.values[option] is None
    finally:
        jax.config.update(option, before)


def test_the_current_directory_is_searched_for_own_parts_only(miue, site, monkeypatch):
    """A library may try to import a module that happens to lie there."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert miue("protect", "--workdir=")[0] == 2
    assert "" not in sys.path
    assert miue("protect", "--generator=no_such:part", "--workdir=run")[0] == 2
    assert "" in sys.path


def test_what_is_not_foreseen_is_one_line_too(monkeypatch, capsys):
    def fails():
        raise KeyError("lost")

    assert _command_line.run(fails, "miue") == 2
    assert capsys.readouterr().err == (
        "miue: KeyError: 'lost' (test_cli.py, line "
        f"{fails.__code__.co_firstlineno + 1}); MIUE_TRACEBACK=1 shows where\n"
    )
    monkeypatch.setenv("MIUE_TRACEBACK", "1")
    assert _command_line.run(fails, "miue") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert "in fails\n" in shown


@pytest.mark.parametrize("code", [0, None, "leaving"])
def test_an_exit_without_a_reason_is_no_success(capsys, code):
    assert _command_line.run(lambda: sys.exit(code), "miue") == 2
    assert capsys.readouterr().err == f"miue: {code or 'sys.exit was called'}\n"


def test_lines_are_safe_to_show(capsys):
    def fails():
        raise ValueError("\x1b[2J" + "x" * 10**6 + "\n")

    assert _command_line.run(fails, "miue") == 2
    shown = capsys.readouterr().err
    assert len(shown) < 3000
    assert "\x1b" not in shown


@pytest.mark.parametrize("place", ["missing/below", "file/below", "relative"])
def test_a_cache_that_cannot_be_written_is_not_used(monkeypatch, tmp_path, place):
    option = "jax_compilation_cache_dir"
    before = jax.config.values[option]
    (tmp_path / "file").touch()
    (tmp_path / "missing").mkdir(mode=0o500)
    given = place if place == "relative" else str(tmp_path / place)
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    # The superuser may write anywhere.
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    monkeypatch.chdir(tmp_path)
    try:
        jax.config.update(option, None)
        _command_line.keep_compiled()
        assert jax.config.values[option] is None
        assert not (tmp_path / "relative").exists()
    finally:
        jax.config.update(option, before)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["export", "data.npz", "--png="], ["export", "data.npz", "--npy", ""]),
        ["import", "delta.npy", "data.npz", "--output="],
        ["detect", "a.npz", "data.npz", "--json="],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_not_the_current_directory(miue, site, arguments):
    before = _content(site)
    status, _, errors = miue(*arguments)
    assert (status, len(errors.splitlines())) == (2, 1)
    assert "is empty: name a" in errors
    assert _content(site) == before


def test_an_empty_directory_of_a_run_is_not_the_current_one(site):
    before = _content(site)
    for run in (
        lambda: miue_jax.protect("data.npz", "random_noise", workdir=""),
        lambda: miue_jax.evaluate("data.npz", "data.npz", workdir=""),
        lambda: demo.demo(""),
    ):
        with pytest.raises(ValueError, match="workdir is empty: name a directory"):
            run()
    assert _content(site) == before


def test_views_are_named_and_then_changed(miue, tmp_path):
    options = (
        *("--data.per-class=4", "--generator=mi_ue/interleaved", "--quiet"),
        *("--generator.model=mlp2", "--generator.width=8", "--generator.epochs=1"),
        *("--generator.batch-size=20", "--generator.pgd-steps=1"),
    )
    views = ("--generator.views", "compression", "--generator.views.min-quality=7")
    status, _, errors = miue(
        "protect", "shapes", *options, *views, f"--workdir={tmp_path / 'run'}"
    )
    assert status == 0, errors
    found = _results("protect", tmp_path / "run")["generator"]["views"]
    assert (found["jpeg"], found["min_quality"]) == (0.7, 7)
    status, _, errors = miue(
        "protect", "shapes", *options, "--generator.views=nix", "--workdir=run"
    )
    assert status == 2
    assert "unknown views 'nix'" in errors
